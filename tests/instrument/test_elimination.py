"""The rank engine: exact products, certified signs, zero pivots, checks that catch errors."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import PRIME, exact, networks, oracle
from hypothesis import given
from hypothesis import strategies as st

import fdimlib as fd
from fdimlib import certificate, factor
from fdimlib import eliminate as elimination
from fdimlib.eliminate import _Eliminator, _LastGain, eliminate
from fdimlib.factor import LEAF, Factor
from fdimlib.finite_field import INNER, PrimeField, primes
from fdimlib.oracle import modular_jacobian, modular_rank
from fdimlib.patterns import certified_signs
from fdimlib.rows import ExplicitRows, KroneckerRows

FIELD = PrimeField(PRIME)


@pytest.mark.parametrize("inner", [1, INNER - 1, INNER, INNER + 1, 3 * INNER + 5])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_products_of_the_largest_residues_over_the_longest_sums_are_exact(inner, signs):
    largest = (PRIME + 1) // 2  # what reduce_ can leave at a tie, one above the least residue
    a = torch.full((3, inner), float(signs[0] * largest), dtype=torch.float64)
    b = torch.full((inner, 2), float(signs[1] * largest), dtype=torch.float64)
    c = torch.full((3, 2), float(-signs[0] * signs[1] * largest), dtype=torch.float64)
    found = FIELD.subtract_product_(c.clone(), a, b)
    expected = -signs[0] * signs[1] * (largest + inner * largest**2)
    assert ((found - expected % PRIME) % PRIME == 0).all(), found
    assert found.abs().max() <= largest
    assert INNER * largest**2 + largest < 2**53


@given(st.lists(st.integers(-(2**53) + 1, 2**53 - 1), min_size=1, max_size=20),
       st.sampled_from(primes(3)))
def test_reduction_is_exact_for_every_integer_below_2_to_the_53(values, p):
    found = PrimeField(p).reduce_(torch.tensor(values, dtype=torch.float64)).tolist()
    assert [(int(r) - v) % p for r, v in zip(found, values)] == [0] * len(values)
    assert all(abs(r) <= (p + 1) // 2 and (r == 0) == (v % p == 0) for r, v in zip(found, values))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_images_are_those_of_the_exact_fractions(values):
    expected = [Fraction(v).numerator * pow(Fraction(v).denominator, -1, PRIME) for v in values]
    found = FIELD.image(torch.tensor(values, dtype=torch.float64)).tolist()
    assert [(int(r) - e) % PRIME for r, e in zip(found, expected)] == [0] * len(values)


def exact_sign(weight, bias, x):
    total = sum((Fraction(w) * Fraction(v) for w, v in zip(weight, x)), Fraction(bias))
    return (total > 0) - (total < 0)


THREE = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)


@given(THREE, THREE, st.integers(-3, 3), st.sampled_from([0, 300, -300, -500]))
def test_signs_closer_to_zero_than_rounding_are_certified(weight, x, ulps, exponent):
    """The bias cancels the rounded sum, but for a few units in the last place."""
    scale = 2.0**exponent
    weight = [w * scale for w in weight]
    bias = -sum(w * v for w, v in zip(weight, x))
    for _ in range(abs(ulps)):
        bias = math.nextafter(bias, ulps)
    hidden = torch.tensor([weight], dtype=torch.float64), torch.tensor([bias], dtype=torch.float64)
    layers = [hidden, (torch.ones(1, 1), None)]
    (sign,) = certified_signs(layers, torch.tensor([x], dtype=torch.float64))
    assert sign.item() == exact_sign(weight, bias, x)


def test_signs_in_deep_layers_survive_cancellation_of_twins():
    """h_1 and h_2 agree exactly; layer 2 takes their difference: exactly 0, unlike its rounding."""
    net = fd.relu_mlp([5, 2, 2, 1], seed=0, bias_std=1.0)
    with torch.no_grad():
        net[0].weight[1] = net[0].weight[0]
        net[0].bias[1] = net[0].bias[0]
        net[2].weight.copy_(torch.tensor([[0.3, -0.3], [0.1, -0.1]]))
        net[2].bias.copy_(torch.tensor([0.0, 2.0**-1074], dtype=torch.float64))
    layers = [(m.weight.detach(), m.bias.detach()) for m in net[::2]]
    signs = certified_signs(layers, fd.gaussian_inputs(20, 5, mean=0.0))
    assert (signs[1][:, 0] == 0).all() and (signs[1][:, 1] == 1).all()


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**1000])
def test_overflow_and_underflow_in_the_forward_pass_are_settled_exactly(scale):
    net, x = fd.relu_mlp([2, 3, 3, 1], seed=2), fd.gaussian_inputs(6, 2, mean=0.0)
    expected = fd.activation_pattern(net, x)
    with torch.no_grad():
        for layer in net[:-1:2]:
            layer.weight.mul_(scale)
    assert torch.equal(fd.activation_pattern(net, x), expected)


def explicit(j, d=None, outputs=1):
    d = torch.ones(j.shape[1], dtype=torch.long) if d is None else d
    return ExplicitRows(FIELD.lift(j), FIELD.lift(d), FIELD, outputs)


def eliminated(source, bound):
    return eliminate(source, FIELD, np.random.default_rng(0), bound=bound)


def isotropic_rows(count):
    """Rows (1, t), t² = −1 modulo a prime that is 1 modulo 4: J Jᵀ has a zero diagonal."""
    roots = (pow(g, (PRIME - 1) // 4, PRIME) for g in range(2, 100))
    t = next(t for t in roots if t * t % PRIME == PRIME - 1)
    return torch.block_diag(*[torch.tensor([[1, t]])] * count).long()


def test_the_prime_allows_isotropic_rows():
    assert PRIME % 4 == 1


@pytest.mark.parametrize("later", [1, 40, 300])
def test_isotropic_rows_are_kept_aside_and_tried_again(later):
    """Row 0 is isotropic; rows that see it come `later`, within its leaf, block, or elsewhere."""
    first = torch.cat([isotropic_rows(1), torch.zeros(1, later, dtype=torch.long)], dim=1)
    generator = torch.Generator().manual_seed(1)
    rest = torch.randint(PRIME, (later, 2 + later), generator=generator)
    rest[:-1, :2] = 0
    j = torch.cat([first, rest])
    result = eliminated(explicit(j), bound=len(j))
    assert result.verified and result.rank == modular_rank(j.numpy(), PRIME) == len(j)


def test_rows_that_stay_isotropic_are_reported_as_not_verified_never_lost_silently():
    j = isotropic_rows(3)
    unlucky = eliminated(explicit(j), bound=3)
    assert (unlucky.rank, unlucky.verified) == (0, False)
    lucky = eliminated(explicit(j, torch.tensor([1, 2, 3, 4, 5, 6])), bound=3)
    assert (lucky.rank, lucky.verified) == (3, True)


def test_choosing_earlier_samples_falls_back_when_an_isotropic_row_comes_in_between():
    """Row a is a pivot after b only. The first choice meets b first, the second one meets a."""
    (a,) = torch.cat([isotropic_rows(1), torch.zeros(1, 2, dtype=torch.long)], dim=1)
    b, other = torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 0, 1])
    j = torch.stack([other, b, other, a, other, other, *[other] * 6])  # four samples
    work = _Eliminator(explicit(j, outputs=3), FIELD, np.random.default_rng(0), bound=4)
    rows = torch.arange(len(j))
    work.eliminate_samples(rows, per_sample=2, size=256)
    found, work.last_gain = work.factor, _LastGain(Factor(FIELD), rows)
    assert found.rows.tolist() == [0, 1, 3]
    work.use_no_later_sample_than_needed()
    assert work.factor is found


DAMAGED = {
    "a coefficient of L": lambda tile: tile.left[0, 0].add_(1),
    "a pivot": lambda tile: tile.inverse_delta[0].add_(1),
    "an inverse on the diagonal": lambda tile: tile.inverse[-1, 0].add_(1),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_verification_catches_a_damaged_elimination(what, monkeypatch):
    extended = Factor.extended

    def damaging(self, new, select):
        factor = extended(self, new, select)
        if len(factor.tiles) == 2 and factor.tiles[-1] is new:
            DAMAGED[what](new)
        return factor

    monkeypatch.setattr(Factor, "extended", damaging)
    use_blocks_of(16, monkeypatch)
    net, x = fd.relu_mlp([4, 8, 6, 3], seed=0, bias_std=1.0), fd.gaussian_inputs(60, 4)
    assert not fd.batch_functional_dimension(net, x).verified


def test_verification_catches_a_row_rejected_wrongly(monkeypatch):
    """Some rows' entries of K are zeroed, so that they look dependent: their residual tells."""
    gram = KroneckerRows.gram

    def blind(self, a, b):
        k = gram(self, a, b)
        k[:, b.sample == b.sample.max()] = 0
        k[a.sample == a.sample.max()] = 0
        return k

    monkeypatch.setattr(KroneckerRows, "gram", blind)
    net, x = fd.relu_mlp([4, 8, 6, 3], seed=0, bias_std=1.0), fd.gaussian_inputs(10, 4)
    dim = fd.batch_functional_dimension(net, x)
    assert not dim.verified and "NOT VERIFIED" in str(dim)


def use_blocks_of(size, monkeypatch, leaf=LEAF):
    monkeypatch.setattr(elimination, "BLOCK", size)
    monkeypatch.setattr(factor, "TILE", size)
    monkeypatch.setattr(factor, "LEAF", leaf)


DIGITS = [(fd.relu_mlp([784, 4, 4, 10], seed=s), fd.mnist_sample(40, 1, seed=s).x_train)
          for s in range(3)]


def integers(cases):
    found = [fd.batch_functional_dimension(net, x) for net, x in cases]
    assert all(dim.verified for dim in found)
    return [(dim.value, dim.reached_at) for dim in found]


@pytest.mark.parametrize("block, leaf", [(3, 1), (7, 3), (64, 8), (1000, 50)])
def test_results_do_not_depend_on_block_sizes(block, leaf, monkeypatch):
    expected = integers(DIGITS)
    use_blocks_of(block, monkeypatch, leaf)
    assert integers(DIGITS) == expected


SLOW_GROWTH = [(fd.relu_mlp(widths, seed=0, bias_std=1.0), fd.gaussian_inputs(n, widths[0]))
               for widths, n in [([4, 8, 6, 3], 700), ([30, 4, 4, 10], 300), ([2, 9, 5], 900)]]


@pytest.mark.parametrize("look", [0.0, 0.3, 10.0], ids=["never", "late", "always"])
@pytest.mark.parametrize("least", [1, 256])
@pytest.mark.parametrize("ahead", [5, 2**14])
def test_results_do_not_depend_on_how_far_it_looks_ahead(look, least, ahead, monkeypatch):
    expected = integers(SLOW_GROWTH)
    monkeypatch.setattr(elimination, "LOOK", look)
    monkeypatch.setattr(elimination, "LEAST", least)
    monkeypatch.setattr(certificate, "AHEAD", ahead)
    assert integers(SLOW_GROWTH) == expected


@pytest.mark.parametrize("place", [0, 1, 700, 1500, 2399])
def test_a_new_row_in_a_long_tail_is_found_by_looking_ahead(place, monkeypatch):
    """2,400 repetitions of ten samples, and one that differs; all others are passed over."""
    net, few = fd.relu_mlp([4, 8, 6, 3], seed=0, bias_std=1.0), fd.gaussian_inputs(11, 4)
    x = few[:10].repeat(240, 1)
    x[place] = few[10]
    counted, eliminate_block = [], _Eliminator.eliminate_block

    def counting(self, rows):
        counted.append(len(rows))
        return eliminate_block(self, rows)

    monkeypatch.setattr(_Eliminator, "eliminate_block", counting)
    dim = fd.batch_functional_dimension(net, x, head="identity")
    assert dim.verified and int(dim) == oracle(net, few)
    assert sum(counted) <= elimination.BLOCK + 3


@pytest.mark.parametrize("widths, n", [([4, 8, 6, 3], 200), ([30, 4, 4, 10], 300),
                                       ([100, 6, 10], 400), ([40, 12, 5, 20], 250)])
def test_reached_at_is_where_the_rank_is_reached(widths, n):
    """Also where samples yield fewer independent rows than they have, so that order is left."""
    net, x = fd.relu_mlp(widths, seed=0, bias_std=1.0), fd.gaussian_inputs(n, widths[0])
    dim = fd.batch_functional_dimension(net, x)
    before, there = x[: dim.reached_at - 1], x[: dim.reached_at]
    assert dim.verified and exact(net, there) == int(dim) > exact(net, before)


@given(networks(), st.sampled_from(["identity", "softmax"]))
def test_explicit_rows_and_kronecker_rows_have_the_same_rank(case, head):
    """The slow row source on the oracle's matrix, with a diagonal of its own."""
    net, x = case
    j = torch.from_numpy(modular_jacobian(net, x, PRIME, head=head))
    if not len(j):  # softmax of one output
        return
    d = torch.from_numpy(np.random.default_rng(0).integers(1, PRIME, j.shape[1]))
    found = eliminated(explicit(j, d, outputs=len(j) // len(x)), bound=min(j.shape))
    assert found.verified and found.rank == exact(net, x, head=head)


def test_results_do_not_depend_on_the_number_of_threads():
    net, x = fd.relu_mlp([784, 10, 10, 10], seed=0), fd.mnist_sample(60, 1).x_train
    threads, ranks = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            ranks.append(exact(net, x, head="softmax"))
    finally:
        torch.set_num_threads(threads)
    assert len(set(ranks)) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_results_do_not_depend_on_the_device():
    net, x = fd.relu_mlp([784, 10, 10, 10], seed=0), fd.mnist_sample(200, 1).x_train
    assert exact(net, x, head="softmax", device="cuda") == exact(net, x, head="softmax")


def test_wide_layers_exceed_one_exact_sum():
    """An inner dimension above INNER, in the forward pass and in K."""
    net = fd.relu_mlp([5000, 3, 2], seed=0, bias_std=1.0)
    x = fd.gaussian_inputs(6, 5000)
    assert exact(net, x) == oracle(net, x)
