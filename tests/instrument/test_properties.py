"""What the paper proves about the batch functional dimension, on random networks.

One side of each equation is the library's, the other the rank over the rationals, which shares no
code with it.
"""

import torch
from helpers import (
    assert_rank_within_bounds,
    exact,
    networks,
    rank_of_fractions,
    rational_jacobian,
    rational_rank,
)
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
    assert exact(moved, x, head=head) == rational_rank(net, x, head)


@given(networks(), HEADS, SEEDS)
def test_rank_and_pattern_are_invariant_under_rescaling(case, head, seed):
    net, x = case
    assume(net[0].weight.dtype != torch.float16)  # powers of two leave its narrow range
    generator = torch.Generator().manual_seed(seed)
    exponents = [torch.randint(-6, 7, (width,), generator=generator) for width in hidden(net)]
    moved = fd.rescale(net, [2.0**exponent for exponent in exponents])
    assert torch.equal(fd.activation_pattern(moved, x), fd.activation_pattern(net, x))
    assert exact(moved, x, head=head) == rational_rank(net, x, head)


@given(networks(), HEADS, st.data())
def test_rank_is_monotone_in_the_sample_and_grows_by_at_most_the_outputs(case, head, data):
    net, x = case
    cut = data.draw(st.integers(1, len(x)))
    part, whole = exact(net, x[:cut], head=head), rational_rank(net, x, head)
    outputs = net[-1].out_features - (head == "softmax")
    assert part <= whole <= part + (len(x) - cut) * outputs


@given(networks(), HEADS, SEEDS)
def test_order_and_duplication_of_the_sample_do_not_matter(case, head, seed):
    net, x = case
    order = torch.randint(len(x), (len(x),), generator=torch.Generator().manual_seed(seed))
    assert exact(net, torch.cat([x.flip(0), x[order]]), head=head) == rational_rank(net, x, head)


@given(networks(), HEADS)
def test_rank_at_a_parameter_is_at_most_that_of_its_region(case, head):
    net, x = case
    assert rational_rank(net, x, head) <= exact(net, x, head=head, at="region")


@given(networks(), HEADS)
def test_sample_and_parameter_bounds_are_never_exceeded(case, head):
    """By the rational rank: the library's own stops at the bound, so that it could not show it."""
    assert_rank_within_bounds(*case, head)


@given(networks(), st.data())
def test_softmax_rank_is_the_rank_of_the_logit_differences(case, data):
    """The softmax derivative by its definition, against the differences to any one logit."""
    net, x = case
    logits, outputs = rational_jacobian(net, x), net[-1].out_features
    against = data.draw(st.integers(0, outputs - 1))
    samples = [logits[start : start + outputs] for start in range(0, len(logits), outputs)]
    differences = [[a - b for a, b in zip(row, sample[against])]
                   for sample in samples for row in sample]
    rank = rank_of_fractions(differences)
    assert rank == rational_rank(net, x, "softmax") == exact(net, x, head="softmax")


@given(networks(), HEADS, st.integers(0, 50))
def test_no_seed_changes_the_rank(case, head, seed):
    net, x = case
    assert exact(net, x, head=head, seed=seed) == rational_rank(net, x, head)
