"""What the paper proves about the batch functional dimension, on random networks."""

import torch
from helpers import exact, networks
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import fdimlib as fd

HEADS = st.sampled_from(["identity", "softmax"])
SEEDS = st.integers(0, 2**31)


def hidden(net):
    return [layer.out_features for layer in net if isinstance(layer, nn.Linear)][:-1]


@given(networks(), HEADS, SEEDS)
def test_rank_is_invariant_under_permutation(case, head, seed):
    net, x = case
    generator = torch.Generator().manual_seed(seed)
    moved = fd.permute(net, [torch.randperm(width, generator=generator) for width in hidden(net)])
    assert exact(moved, x, head=head) == exact(net, x, head=head)


@given(networks(), HEADS, SEEDS)
def test_rank_and_pattern_are_invariant_under_rescaling(case, head, seed):
    net, x = case
    assume(net[0].weight.dtype != torch.float16)  # powers of two leave its narrow range of exponents
    generator = torch.Generator().manual_seed(seed)
    moved = fd.rescale(net, [2.0 ** torch.randint(-6, 7, (width,), generator=generator) for width in hidden(net)])
    assert torch.equal(fd.activation_pattern(moved, x), fd.activation_pattern(net, x))
    assert exact(moved, x, head=head) == exact(net, x, head=head)


@given(networks(), HEADS, st.data())
def test_rank_is_monotone_in_the_sample_and_grows_by_at_most_the_outputs(case, head, data):
    net, x = case
    cut = data.draw(st.integers(1, len(x)))
    part, whole = exact(net, x[:cut], head=head), exact(net, x, head=head)
    outputs = net[-1].out_features - (head == "softmax")
    assert part <= whole <= part + (len(x) - cut) * outputs


@given(networks(), HEADS, SEEDS)
def test_order_and_duplication_of_the_sample_do_not_matter(case, head, seed):
    net, x = case
    order = torch.randint(len(x), (len(x),), generator=torch.Generator().manual_seed(seed))
    assert exact(net, torch.cat([x.flip(0), x[order]]), head=head) == exact(net, x, head=head)


@given(networks(), HEADS)
def test_rank_at_a_parameter_is_at_most_that_of_its_region(case, head):
    net, x = case
    assert exact(net, x, head=head) <= exact(net, x, head=head, at="region")


@given(networks(), HEADS)
def test_sample_and_parameter_bounds_are_never_exceeded(case, head):
    net, x = case
    rank = exact(net, x, head=head)
    assert rank <= fd.dimension_bound(net, len(x), head=head) <= fd.dimension_bound(net, head=head)
    assert rank <= len(x) * (net[-1].out_features - (head == "softmax"))


@given(networks(max_depth=3, max_width=4))
def test_softmax_rank_is_the_rank_of_the_logit_differences(case):
    """theory.md section 3, by the numerical Jacobian of the differences, on entries that are exact in float64."""
    net, x = case
    assume(net[0].weight.dtype == torch.float64)
    outputs = net[-1].out_features
    logits = fd.jacobian(net, x, head="identity").reshape(len(x), outputs, -1)
    differences = (logits[:, :-1] - logits[:, -1:]).flatten(0, 1)
    s = torch.linalg.svdvals(differences)
    rank = exact(net, x, head="softmax")
    gap = len(s) and s.max() and (len(s) == rank or s[rank] < 1e-12 * s[0]) and (not rank or s[rank - 1] > 1e-9 * s[0])
    assume(gap)  # singular values that separate, so that the numerical count can be trusted
    assert rank == int((s > 1e-10 * s[0]).sum())


@given(networks(), HEADS, st.integers(1, 50))
def test_the_random_seed_does_not_matter(case, head, seed):
    net, x = case
    assert exact(net, x, head=head, seed=seed) == exact(net, x, head=head)
