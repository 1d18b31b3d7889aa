"""The exact rank is right: by fractions, a slow oracle, FLINT, and the SVD where that is right."""

import copy

import flint
import numpy as np
import pytest
import torch
from helpers import PRIME, exact, neighbour_in_region, networks, oracle, rational_rank
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import fdimlib as fd
from fdimlib.oracle import modular_jacobian

HEADS = ["identity", "softmax"]


@settings(max_examples=120)
@given(networks(max_depth=5), st.sampled_from(HEADS))
def test_equals_the_rank_over_the_rationals(case, head):
    net, x = case
    assert exact(net, x, head=head) == rational_rank(net, x, head)


@given(networks(), st.sampled_from(HEADS), st.integers(0, 2**31))
def test_the_rank_of_a_region_is_that_of_a_random_parameter_in_it(case, head, seed):
    net, x = case
    moved = neighbour_in_region(net, x, torch.Generator().manual_seed(seed))
    assume(moved is not None)
    assert exact(net, x, head=head, at="region") == rational_rank(moved, x, head)


@pytest.mark.parametrize("widths, n", [([6, 12, 10, 5], 70), ([10, 20, 10], 60)])
def test_equals_the_obvious_oracle_where_fractions_are_slow(widths, n):
    net, x = fd.relu_mlp(widths, seed=0), fd.gaussian_inputs(n, widths[0])
    assert exact(net, x) == oracle(net, x) < fd.dimension_bound(net, n)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("widths, n", [([8, 6, 6, 4], 60), ([20, 10, 10, 10, 10], 80),
                                       ([5, 30, 3], 150)])
def test_equals_flint_on_mid_size_networks(widths, n, head):
    net, x = fd.relu_mlp(widths, seed=1, bias_std=0.5), fd.gaussian_inputs(n, widths[0], seed=2)
    matrix = modular_jacobian(net, x, PRIME, head=head)
    assert exact(net, x, head=head) == flint.nmod_mat(matrix.tolist(), PRIME).rank()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("head", HEADS)
def test_equals_the_svd_on_well_conditioned_networks(seed, head):
    net = fd.relu_mlp([6, 8, 5, 4], seed=seed, bias_std=1.0)
    x = fd.gaussian_inputs(40, 6, seed=seed, mean=0.0)
    s = fd.spectrum(net, x, head=head)
    rank = exact(net, x, head=head)
    if rank < len(s):
        assert s[rank] / s[rank - 1] < 1e-6, "not well conditioned: choose another example"
    assert rank == int(fd.batch_functional_dimension(net, x, head=head, method="svd"))


@pytest.mark.parametrize("exponent", [0, 4, 8, 12, 40])
def test_saturated_softmax_keeps_its_rank_while_the_svd_loses_it(exponent):
    """The derivative of softmax is diag(p) − ppᵀ, of rank N_L − 1 for every p > 0.

    For if (diag(p) − ppᵀ) v = 0, then p_i (v_i − pᵀv) = 0 for all i, so v is constant.
    """
    net, x = fd.relu_mlp([4, 6, 3], seed=0, bias_std=1.0), fd.gaussian_inputs(30, 4)
    before = exact(net, x, head="softmax")
    with torch.no_grad():
        net[-1].weight.mul_(2.0**exponent)
        net[-1].bias.mul_(2.0**exponent)
    assert exact(net, x, head="softmax") == before == rational_rank(net, x, "softmax")
    if exponent >= 12:
        assert int(fd.batch_functional_dimension(net, x, head="softmax", method="svd")) < before


def test_float32_entries_count_noise_as_rank_and_the_exact_method_does_not():
    """Rescaling directions are kernel vectors; rounding makes small singular values of them."""
    digits = fd.mnist_sample(60, 1)
    net = fd.relu_mlp([784, 5, 5, 10], seed=0).float()
    rank = exact(net, digits.x_train)
    assert rank == oracle(net, digits.x_train) <= fd.dimension_bound(net, 60)
    assert int(fd.batch_functional_dimension(net, digits.x_train, method="svd")) > rank


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_every_precision_are_taken_as_the_fractions_they_are(dtype):
    net, x = fd.relu_mlp([3, 4, 4, 2], seed=3, bias_std=1.0).to(dtype), fd.gaussian_inputs(9, 3)
    assert exact(net, x) == rational_rank(net, x) == exact(copy.deepcopy(net).double(), x)


@pytest.mark.parametrize("scale", [2.0**-600, 1e-200, 1e-40, 1e40, 1e100, 2.0**600])
def test_tiny_and_huge_scales_change_nothing(scale):
    """Fractions of any size are exact; the SVD overflows."""
    net, x = fd.relu_mlp([3, 5, 4, 2], seed=4, bias_std=1.0), fd.gaussian_inputs(12, 3)
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.mul_(scale)
    assert exact(net, x) == rational_rank(net, x)


def test_zero_biases_at_the_origin_are_not_regular_and_say_so():
    net, x = fd.relu_mlp([2, 3, 1], seed=0), torch.zeros(1, 2)
    dim = fd.batch_functional_dimension(net, x)
    assert (int(dim), dim.zero_preactivations, dim.regular) == (1, 3, False)
    assert "3 hidden pre-activations are exactly 0" in str(dim)


def test_region_rank_can_exceed_the_rank_at_a_special_parameter():
    """Twin neurons with equal outgoing weights; generic parameters tell them apart."""
    net, x = fd.relu_mlp([1, 2, 1], seed=0), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        net[2].weight.copy_(torch.tensor([[0.0, 0.0]]))
        net[0].bias.zero_()
        net[2].bias.zero_()
    assert exact(net, x, at="parameters") == 2
    assert exact(net, x, at="region") == 2
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([-1.5, -2.5]))
    assert (exact(net, x, at="parameters"), exact(net, x, at="region")) == (3, 4)


def test_one_output_with_softmax_has_rank_zero():
    assert exact(fd.relu_mlp([3, 4, 1], bias_std=1.0), torch.randn(5, 3), head="softmax") == 0


def test_all_dead_networks_only_move_their_output_bias():
    net = fd.relu_mlp([3, 4, 4, 2], bias_std=1.0)
    with torch.no_grad():
        net[2].bias.fill_(-1e6)
    assert exact(net, torch.rand(7, 3)) == 2


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_linear_models_have_the_classical_rank(n):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    assert exact(fd.relu_mlp([4, 3]), x) == 3 * min(n, 5)
    assert exact(fd.relu_mlp([4, 3]), x, head="softmax") == 2 * min(n, 5)


@pytest.mark.parametrize("seed", range(6))
def test_shallow_scalar_networks_follow_the_closed_form(seed):
    """rank [1 | diag(a_i) [X, 1] for each neuron i], a_i its pattern, if outgoing weights are ≠ 0.

    For f(x) = b + Σ_i v_i a_i(x) (w_i x + c_i), the derivative by (w_i, c_i) is v_i a_i(x) [x, 1];
    that by v_i is a combination of these, and that by b is 1.
    """
    net = fd.relu_mlp([2, 6, 1], seed=seed, bias_std=1.0)
    x = fd.gaussian_inputs(25, 2, mean=0.0, seed=seed)
    pattern = fd.activation_pattern(net, x).double().numpy()
    affine = np.hstack([x.numpy(), np.ones((25, 1))])
    closed_form = np.hstack([np.ones((25, 1)), *(column[:, None] * affine for column in pattern.T)])
    assert exact(net, x, at="region") == np.linalg.matrix_rank(closed_form)


@given(networks(), st.integers(0, 100))
def test_full_dimension_is_never_below_a_sample_and_never_above_the_bound(case, seed):
    """The ten points are the first of the growing sample: this is a theorem and no likelihood."""
    net, _ = case
    full = fd.full_functional_dimension(net, mean=0.0, max_samples=200, seed=seed, progress=False)
    some = rational_rank(net, fd.gaussian_inputs(10, net[0].in_features, mean=0.0, seed=seed))
    assert some <= full.value and some <= fd.dimension_bound(net) == full.bound


def test_full_dimension_of_a_generic_network_meets_the_bound():
    net = fd.relu_mlp([3, 4, 2], seed=0, bias_std=0.5)
    full = fd.full_functional_dimension(net, mean=0.0, std=2.0)
    assert (full.value, full.verified) == (full.bound, True)
    assert full.bound == 3 * 4 + 4 + 4 * 2 + 2 - 4


def test_the_authors_network_on_real_digits_fills_the_sample_bound():
    digits = fd.mnist_sample(100, 1)
    net = fd.relu_mlp([784, 30, 30, 30, 10], seed=0, bias_std=0.1)
    assert fd.dimension_bound(net, 100, head="softmax") == 900
    assert exact(net, digits.x_train, head="softmax") == 900


def test_head_none_follows_the_module():
    net, x = fd.relu_mlp([3, 4, 3], seed=0, bias_std=1.0), fd.gaussian_inputs(4, 3)
    with_softmax = nn.Sequential(*net, nn.Softmax(dim=1))
    assert fd.batch_functional_dimension(with_softmax, x).head == "softmax"
    assert exact(with_softmax, x) == exact(net, x, head="softmax")
    assert exact(with_softmax, x) < exact(with_softmax, x, head="identity")


def test_every_way_to_hand_over_a_sample_gives_the_same_rank():
    net = nn.Sequential(nn.Flatten(), *fd.relu_mlp([4, 5, 2], seed=0, bias_std=1.0))
    pixels = np.random.default_rng(0).integers(0, 255, size=(6, 2, 2), dtype=np.uint8)
    samples = (
        pixels, pixels.tolist(),
        pixels.astype(float), pixels.astype(np.float32), pixels.astype(">f8"),
        torch.from_numpy(pixels), torch.from_numpy(pixels.reshape(6, 4)),
        torch.tensor(pixels, dtype=torch.float64, requires_grad=True),
        torch.from_numpy(pixels.copy().transpose(0, 2, 1)).transpose(1, 2),
        pixels[:, ::-1][:, ::-1],
    )
    ranks = {exact(net, x) for x in samples}
    assert len(ranks) == 1
