"""Networks: what is read, what is refused and how it is said, patterns, bounds, symmetries."""

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import fdimlib as fd

X = torch.zeros(4, 3)
L = nn.Linear
R = nn.ReLU
S = nn.Sequential
SHARED = L(3, 3)


def with_nan():
    net = fd.relu_mlp([3, 4, 2])
    with torch.no_grad():
        net[2].weight[1, 3] = float("nan")
    return net


def tied():
    net = nn.Sequential(L(3, 3), R(), L(3, 3))
    net[2].weight = net[0].weight
    return net


class Residual(S):
    """A Sequential in name, another function in fact."""

    def forward(self, x):
        return x + super().forward(x)


def buffered(key):
    net = fd.relu_mlp([3, 4, 2])
    value = getattr(net[0], key).data
    delattr(net[0], key)
    net[0].register_buffer(key, value)
    return net


def overlapping():
    """Two layers on overlapping stretches of one vector: moving one entry moves both."""
    net, vector = S(L(3, 3, bias=False), R(), L(3, 3, bias=False)), torch.randn(12)
    net[0].weight.data, net[2].weight.data = vector[:9].view(3, 3), vector[3:].view(3, 3)
    return net


def hooked():
    net = fd.relu_mlp([3, 4, 2])
    net[1].register_forward_hook(lambda module, given, out: 2 * out)
    return net


TANH = S(L(3, 4), nn.Tanh(), L(4, 2))
DROPOUT = S(L(3, 4), R(), nn.Dropout(), L(4, 2))
WIDTHS = S(L(3, 4), R(), L(5, 2))
SHARED_TWICE = S(SHARED, R(), SHARED)
SPECTRAL = S(parametrizations.spectral_norm(L(3, 2)))
WEIGHT_NORM = S(parametrizations.weight_norm(L(3, 2)))

MODELS = {  # model: (error, found, what to do)
    "unsupported": (TANH, TypeError, "aten.tanh at 1: not piecewise polynomial", 'method="svd"'),
    "dropout": (DROPOUT, TypeError, "aten.dropout at 2: is in training mode", "model.eval()"),
    "spectral norm": (
        SPECTRAL, TypeError, "parameters of model[0] are made from others",
        "call torch.nn.utils.parametrize.remove_parametrizations(model[0], 'weight') first"),
    "weight norm": (
        WEIGHT_NORM, TypeError, "parameters of model[0] are made from others",
        "call torch.nn.utils.parametrize.remove_parametrizations(model[0], 'weight') first"),
    "weight buffer": (
        buffered("weight"), TypeError, "weight of Linear at position 0 is not", "nn.Parameter"),
    "bias buffer": (
        buffered("bias"), TypeError, "bias of Linear at position 0 is not", "nn.Parameter"),
    "complex": (
        S(L(3, 2, dtype=torch.complex64)), TypeError, "dtype torch.complex64", "a float dtype"),
    "NaN": (
        with_nan(), ValueError, "weight of Linear at position 2 is nan at [1, 3] (1 such", "clean"),
    "widths": (WIDTHS, ValueError, "position 2 takes 5 inputs", "the layer before gives 4"),
    "softmax over samples": (
        S(L(3, 2), nn.Softmax(dim=0)), ValueError, "aten.softmax at 1: mixes samples", "belong"),
    "Flatten over samples": (
        S(nn.Flatten(0), L(12, 2)), (TypeError, ValueError), "model: ", "sample"),
    "overlapping": (overlapping(), ValueError, "two layers share a parameter", "copy the shared"),
}


@pytest.mark.parametrize("case", MODELS)
def test_networks_that_cannot_be_read_say_why(case):
    model, error, found, advice = MODELS[case]
    with pytest.raises(error) as raised:
        fd.batch_functional_dimension(model, X)
    assert found in str(raised.value) and advice in str(raised.value)


READABLE = {
    "not a Sequential": L(3, 2), "own forward": Residual(L(3, 3)), "hook": hooked(),
    "log-softmax": S(L(3, 2), nn.LogSoftmax(dim=1)), "nested": S(S(L(3, 2))),
    "two Linear": S(L(3, 4), L(4, 2)), "two ReLU": S(L(3, 4), R(), R(), L(4, 2)),
    "ends in ReLU": S(L(3, 4), R()), "shared layer": SHARED_TWICE, "tied weights": tied(),
}


@pytest.mark.parametrize("case", READABLE)
def test_networks_that_are_no_plain_layers_are_read_by_what_they_compute(case):
    model, x = READABLE[case].double(), fd.gaussian_inputs(7, 3, seed=2)
    dim = fd.batch_functional_dimension(model, x)
    s = torch.linalg.svdvals(fd.jacobian(model, x))
    assert dim.verified and int(dim) == int((s > 1e-9 * s[0]).sum())
    with pytest.raises((TypeError, ValueError), match=r"^model: "):
        fd.activation_pattern(model, x)  # of plain layers only


INPUTS = {
    "wrong width": (torch.zeros(4, 5), "x: found shape (4, 5)", "give shape (n, 3)"),
    "one dimension": (torch.zeros(3), "x: found shape (3,)", "of shape (n, 3)"),
    "empty": (torch.zeros(0, 3), "x: found shape (0, 3)", "non-empty sample"),
    "NaN": (torch.tensor([[0.0, 1, 2], [0, 1, torch.nan]]), "x is nan at [1, 2]", "clean or"),
    "objects": (np.full((2, 3), None), "x: found ndarray of dtype object", "array of real numbers"),
    "ragged": ([[1.0, 2.0, 3.0], [1.0]], "x: found list of dtype object", "array of real numbers"),
    "sparse": (torch.eye(3).to_sparse(), "torch.float32, layout torch.sparse", "dense tensor"),
    "64 bits": (
        np.full((2, 3), 2**64 - 1, np.uint64), "x: some values need more than the 53", "round"),
    "54 bits": (torch.full((2, 3), 2**53 + 1), "more than the 53 bits of float64", "round them"),
    "infinity": (np.array([[0.0, -np.inf, 0]]), "x is -inf at [0, 1]", "clean or rescale"),
    "complex": (
        torch.zeros(2, 3, dtype=torch.complex64), "x: found dtype torch.complex64", "real inputs"),
}


@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize("call", [
    fd.batch_functional_dimension, fd.activation_pattern, fd.jacobian, fd.spectrum,
])
def test_samples_that_cannot_be_read_say_why(case, call):
    x, found, advice = INPUTS[case]
    with pytest.raises(ValueError) as raised:
        call(fd.relu_mlp([3, 4, 2]), x)
    assert found in str(raised.value) and advice in str(raised.value)


OPTIONS = {
    "head": (dict(head="sigmoid"), "head: found 'sigmoid'; use one of 'identity', 'softmax', None"),
    "method": (dict(method="qr"), "method: found 'qr'; use one of 'exact', 'svd'"),
    "at": (dict(at="here"), "at: found 'here'; use one of 'parameters', 'region'"),
    "both": (dict(method="svd", at="region"), "at: 'region' needs method='exact'"),
    "repeats": (dict(repeats=0), "repeats: found 0; give a whole number, at least 1"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_unknown_options_list_what_there_is(case):
    options, message = OPTIONS[case]
    with pytest.raises(ValueError) as raised:
        fd.batch_functional_dimension(fd.relu_mlp([3, 4, 2]), X, **options)
    assert message in str(raised.value)


@pytest.mark.parametrize("call", [fd.batch_functional_dimension, fd.jacobian, fd.spectrum])
def test_what_does_not_fit_is_refused_with_both_numbers(call, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(MemoryError, match=r"needs [\d,]+ bytes, 1,000 are free on cpu"):
        call(fd.relu_mlp([3, 40, 2]), torch.randn(50, 3))


def test_a_jacobian_that_overflows_is_refused_where_the_exact_rank_is_not():
    net, x = fd.relu_mlp([1, 1, 1, 2]), torch.tensor([[1.0], [2.0]])
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.fill_(1e200)
    assert int(fd.batch_functional_dimension(net, x)) == 4  # two affine outputs on two points
    with pytest.raises(FloatingPointError, match=r"model: the Jacobian overflows .*='exact'"):
        fd.batch_functional_dimension(net, x, method="svd")


def test_widths_and_other_arguments_are_checked():
    with pytest.raises(ValueError, match="widths: found"):
        fd.relu_mlp([3, 0, 2])
    for n in (0, 1.5, "5", 1j, float("nan")):
        with pytest.raises(ValueError, match="n: found"):
            fd.dimension_bound(fd.relu_mlp([3, 2]), n)


def test_relu_mlp_is_glorot_with_zero_biases_and_leaves_the_global_seed_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    net = fd.relu_mlp([784, 30, 10], seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    limit = (6 / (784 + 30)) ** 0.5
    assert 0.99 * limit < net[0].weight.abs().max() <= limit and not net[0].bias.any()
    assert net[0].weight.dtype == torch.float64
    assert torch.equal(net[0].weight, fd.relu_mlp([784, 30, 10], seed=3)[0].weight)
    assert not torch.equal(net[0].weight, fd.relu_mlp([784, 30, 10], seed=4)[0].weight)


def test_pattern_has_one_column_a_hidden_neuron_in_order():
    net = fd.relu_mlp([2, 3, 4, 1], seed=0, bias_std=1.0)
    x = fd.gaussian_inputs(5, 2)
    z1 = net[0](x)
    z2 = net[2](z1.relu())
    assert torch.equal(fd.activation_pattern(net, x), torch.cat([z1, z2], dim=1) > 0)
    assert fd.activation_pattern(fd.relu_mlp([2, 1]), x).shape == (5, 0)


def test_jacobian_has_the_promised_order_of_rows_and_columns():
    """Entry by entry against central differences along torch's own parameter vector."""
    net, x, step = fd.relu_mlp([2, 3, 2], seed=0, bias_std=1.0), fd.gaussian_inputs(3, 2), 1e-6
    flat = nn.utils.parameters_to_vector(net.parameters()).detach()
    for head, f in (("identity", lambda: net(x)), ("softmax", lambda: net(x).softmax(dim=1))):
        columns = []
        for k in range(len(flat)):
            sides = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[k] += sign * step
                nn.utils.vector_to_parameters(moved, net.parameters())
                sides.append(f().detach().flatten())
            columns.append((sides[0] - sides[1]) / (2 * step))
        nn.utils.vector_to_parameters(flat, net.parameters())
        found, expected = fd.jacobian(net, x, head=head), torch.stack(columns, dim=1)
        torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-6)


def test_jacobian_keeps_the_precision_of_the_network():
    net = fd.relu_mlp([2, 3, 2])
    assert fd.jacobian(net, torch.eye(2)).dtype == torch.float64
    assert fd.jacobian(net.float(), torch.eye(2)).dtype == torch.float32
    assert fd.spectrum(net, torch.eye(2)).dtype == torch.float64


def test_numerical_rank_is_numpys_rule():
    rng = np.random.default_rng(0)
    for rank in (0, 1, 3, 5):
        matrix = rng.normal(size=(9, rank)) @ rng.normal(size=(rank, 6))
        s = np.linalg.svd(matrix, compute_uv=False)
        assert fd.numerical_rank(s, matrix.shape) == np.linalg.matrix_rank(matrix) == min(rank, 6)
    assert fd.numerical_rank([], (0, 5)) == 0


@pytest.mark.parametrize("bias", [True, False])
def test_bounds_count_rescalings_and_the_common_shift(bias):
    net = nn.Sequential(L(5, 4, bias=bias), R(), L(4, 3, bias=bias), R(), L(3, 2, bias=bias))
    parameters = sum(p.numel() for p in net.parameters())
    assert fd.dimension_bound(net) == parameters - 7
    assert fd.dimension_bound(net, head="softmax") == parameters - 7 - 3 - bias
    assert (fd.dimension_bound(net, 4), fd.dimension_bound(net, 4, head="softmax")) == (8, 4)


def test_symmetries_keep_the_function_the_type_and_the_original():
    layers = fd.relu_mlp([4, 3, 5, 2], seed=0, bias_std=1.0)
    net = nn.Sequential(nn.Flatten(), *layers, nn.Softmax(dim=1)).float()
    x, before = torch.randn(6, 2, 2), [p.clone() for p in net.parameters()]
    for moved in (fd.rescale(net, [torch.tensor([1.0, 3.0, 0.2]), torch.full((5,), 7.0)]),
                  fd.permute(net, [[2, 0, 1], [4, 3, 2, 1, 0]])):
        torch.testing.assert_close(moved(x), net(x))
        assert [p.dtype for p in moved.parameters()] == [p.dtype for p in net.parameters()]
        assert all(p.requires_grad for p in moved.parameters())
        assert any(not torch.equal(a, b) for a, b in zip(moved.parameters(), before))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before))


@pytest.mark.parametrize("call, values, found", [
    (fd.rescale, [[1.0, 2.0]], "factors: found shapes [(2,)]; give one vector for each hidden "
                               "layer, of lengths [3]"),
    (fd.rescale, [[1.0, -2.0, 1.0]], "every factor must be positive"),
    (fd.rescale, [[1.0, float("inf"), 1.0]], "every factor must be positive and finite"),
    (fd.permute, [[0, 0, 1]], "permutations: found [0, 0, 1]; give each of 0..2 once"),
    (fd.permute, [], "permutations: found shapes []"),
])
def test_symmetries_refuse_what_is_none(call, values, found):
    with pytest.raises(ValueError) as raised:
        call(fd.relu_mlp([2, 3, 1]), values)
    assert found in str(raised.value)


def test_a_dimension_is_an_integer_and_a_sentence():
    net, x = fd.relu_mlp([2, 3, 2], seed=0, bias_std=1.0), fd.gaussian_inputs(50, 2)
    dim = fd.batch_functional_dimension(net, x)
    assert int(dim) == dim.value == range(100)[dim]
    assert str(dim) == repr(dim) == (
        f"rank Df_θ(X) = {dim.value} of at most 14 at θ (identity head, n = 50, P = 17; "
        f"exact modulo {dim.primes[0]}, verified)")


def test_flushed_denormals_are_refused():
    """With them flushed, a pre-activation of 1e-310 counts as 0: its sign cannot be certified."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        with pytest.raises(RuntimeError, match=r"call torch\.set_flush_denormal"):
            fd.batch_functional_dimension(fd.relu_mlp([3, 4, 2]), X)
    finally:
        torch.set_flush_denormal(False)
