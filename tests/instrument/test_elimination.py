"""The rank engine: exact products, certified signs, zero pivots, and checks that catch what they should."""

from fractions import Fraction

import pytest
import torch
from helpers import PRIME, exact, oracle
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fdimlib as fd
from fdimlib import dimension
from fdimlib import eliminate as elimination
from fdimlib.eliminate import eliminate
from fdimlib.finite_field import INNER, PrimeField, primes
from fdimlib.oracle import modular_rank
from fdimlib.patterns import certified_signs

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


@given(st.lists(st.integers(-(2**53) + 1, 2**53 - 1), min_size=1, max_size=20), st.sampled_from(primes(3)))
def test_reduction_is_exact_for_every_integer_below_2_to_the_53(values, p):
    found = PrimeField(p).reduce_(torch.tensor(values, dtype=torch.float64)).tolist()
    assert [(int(r) - v) % p for r, v in zip(found, values)] == [0] * len(values)
    assert all(abs(r) <= (p + 1) // 2 and (r == 0) == (v % p == 0) for r, v in zip(found, values))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_images_are_those_of_the_exact_fractions(values):
    expected = [Fraction(v).numerator * pow(Fraction(v).denominator, -1, PRIME) for v in values]
    assert [(int(r) - e) % PRIME for r, e in zip(FIELD.image(torch.tensor(values, dtype=torch.float64)).tolist(), expected)] \
        == [0] * len(values)


def exact_sign(weight, bias, x):
    total = sum((Fraction(w) * Fraction(v) for w, v in zip(weight, x)), Fraction(bias))
    return (total > 0) - (total < 0)


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
       st.integers(-3, 3), st.sampled_from([0, 300, -300, -500]))
def test_signs_closer_to_zero_than_rounding_are_certified(weight, x, ulps, exponent):
    """The bias cancels the rounded sum, up to a few units in the last place: float64 alone cannot tell the sign."""
    scale = 2.0**exponent
    weight = [w * scale for w in weight]
    bias = -sum(w * v for w, v in zip(weight, x))
    for _ in range(abs(ulps)):
        bias = torch.nextafter(torch.tensor(bias, dtype=torch.float64), torch.tensor(float(ulps), dtype=torch.float64)).item()
    hidden = (torch.tensor([weight], dtype=torch.float64), torch.tensor([bias], dtype=torch.float64))
    layers = [hidden, (torch.ones(1, 1), None)]
    assert certified_signs(layers, torch.tensor([x], dtype=torch.float64))[0].item() == exact_sign(weight, bias, x)


def test_signs_in_deep_layers_survive_cancellation_of_twins():
    """h_1 and h_2 agree exactly, and layer 2 takes their difference: exactly 0, though its rounding error is not."""
    net = fd.relu_mlp([5, 2, 2, 1], seed=0, bias_std=1.0)
    with torch.no_grad():
        net[0].weight[1] = net[0].weight[0]
        net[0].bias[1] = net[0].bias[0]
        net[2].weight.copy_(torch.tensor([[0.3, -0.3], [0.1, -0.1]]))
        net[2].bias.copy_(torch.tensor([0.0, 2.0**-1074], dtype=torch.float64))
    signs = certified_signs([(m.weight.detach(), m.bias.detach()) for m in net[::2]], fd.gaussian_inputs(20, 5, mean=0.0))
    assert (signs[1][:, 0] == 0).all() and (signs[1][:, 1] == 1).all()


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**1000])
def test_overflow_and_underflow_in_the_forward_pass_are_settled_exactly(scale):
    net, x = fd.relu_mlp([2, 3, 3, 1], seed=2), fd.gaussian_inputs(6, 2, mean=0.0)
    expected = fd.activation_pattern(net, x)
    with torch.no_grad():
        for layer in net[:-1:2]:
            layer.weight.mul_(scale)
    assert torch.equal(fd.activation_pattern(net, x), expected)


class ExplicitRows:
    """A row source that holds J and the diagonal of D: what elimination asks, in the most obvious way."""

    outputs = 1

    def __init__(self, j, d):
        self.j, self.d = FIELD.lift(j), FIELD.lift(d)
        self.rows = len(j)
        self.generator = torch.Generator().manual_seed(0)

    def take(self, rows):
        return self.j[rows]

    def gram(self, a, b):
        return FIELD.matmul(FIELD.mul(a, self.d), b.T)

    def directions(self, count):
        return FIELD.random(self.j.shape[1], count, generator=self.generator)

    def push(self, handle, z):
        return FIELD.matmul(handle, z)

    def pull(self, handle, s):
        return FIELD.mul(FIELD.matmul(handle.T, s), self.d[:, None])


def isotropic_rows(count):
    """Rows (1, t) with t² = −1 modulo a prime that is 1 modulo 4: J D Jᵀ has a zero diagonal for D = 1."""
    t = next(t for t in (pow(g, (PRIME - 1) // 4, PRIME) for g in range(2, 100)) if t * t % PRIME == PRIME - 1)
    return torch.block_diag(*[torch.tensor([[1, t]])] * count).long()


def test_the_prime_allows_isotropic_rows():
    assert PRIME % 4 == 1


@pytest.mark.parametrize("later", [1, 40, 300])
def test_isotropic_rows_are_kept_aside_and_tried_again(later):
    """Row 0 is isotropic; rows that see it come `later`, within its leaf, its block, or in another block."""
    first = isotropic_rows(1)
    generator = torch.Generator().manual_seed(1)
    rest = torch.randint(PRIME, (later, 2 + later), generator=generator)
    rest[:-1, :2] = 0
    j = torch.cat([torch.cat([first, torch.zeros(1, later, dtype=torch.long)], dim=1), rest])
    result = eliminate(ExplicitRows(j, torch.ones(2 + later, dtype=torch.long)), FIELD, bound=len(j))
    assert result.verified and result.rank == modular_rank(j.numpy(), PRIME) == len(j)


def test_rows_that_stay_isotropic_are_reported_as_not_verified_never_lost_silently():
    j = isotropic_rows(3)
    unlucky = eliminate(ExplicitRows(j, torch.ones(6, dtype=torch.long)), FIELD, bound=3)
    assert (unlucky.rank, unlucky.verified) == (0, False)
    lucky = eliminate(ExplicitRows(j, torch.tensor([1, 2, 3, 4, 5, 6])), FIELD, bound=3)
    assert (lucky.rank, lucky.verified) == (3, True)


def test_an_unlucky_diagonal_is_drawn_again(monkeypatch):
    """The first draw of D vanishes, so K = 0: nothing is lost, the next draw settles it."""
    draws = []

    class Unlucky(dimension.JacobianRows):
        def __init__(self, *args):
            super().__init__(*args)
            draws.append(self)
            if len(draws) == 1:
                self.u = [torch.zeros_like(u) for u in self.u]

    monkeypatch.setattr(dimension, "JacobianRows", Unlucky)
    net, x = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0), fd.gaussian_inputs(9, 3)
    assert exact(net, x) == oracle(net, x)
    assert len(draws) == 2


DAMAGED = {
    "a coefficient of L": lambda tile: tile.left.__setitem__((0, 0), tile.left[0, 0] + 1),
    "a pivot": lambda tile: tile.inverse_delta.__setitem__(0, tile.inverse_delta[0] + 1),
    "an inverse on the diagonal": lambda tile: tile.inverse.__setitem__((-1, 0), tile.inverse[-1, 0] + 1),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_verification_catches_a_damaged_elimination(what, monkeypatch):
    add = elimination._Eliminator.add

    def damaging_add(self, new):
        add(self, new)
        if len(self.tiles) == 2 and new is self.tiles[-1]:
            DAMAGED[what](new)

    monkeypatch.setattr(elimination._Eliminator, "add", damaging_add)
    monkeypatch.setattr(elimination, "BLOCK", 16)
    net, x = fd.relu_mlp([4, 8, 6, 3], seed=0, bias_std=1.0), fd.gaussian_inputs(60, 4)
    assert not fd.batch_functional_dimension(net, x).verified


def test_verification_catches_a_row_rejected_wrongly(monkeypatch):
    """Some rows' entries of K are zeroed, so that they look dependent: the remainder of J z tells."""
    gram = dimension.JacobianRows.gram

    def blind(self, a, b):
        k = gram(self, a, b)
        k[:, b.sample == b.sample.max()] = 0
        k[a.sample == a.sample.max()] = 0
        return k

    monkeypatch.setattr(dimension.JacobianRows, "gram", blind)
    net, x = fd.relu_mlp([4, 8, 6, 3], seed=0, bias_std=1.0), fd.gaussian_inputs(10, 4)
    dim = fd.batch_functional_dimension(net, x)
    assert not dim.verified and "NOT VERIFIED" in str(dim)


@pytest.mark.parametrize("block, leaf", [(3, 1), (7, 3), (64, 8), (1000, 50)])
def test_results_do_not_depend_on_block_sizes(block, leaf, monkeypatch):
    cases = [(fd.relu_mlp([784, 4, 4, 10], seed=s), fd.mnist_sample(40, 1, seed=s).x_train) for s in range(3)]
    expected = [exact(net, x) for net, x in cases]
    monkeypatch.setattr(elimination, "BLOCK", block)
    monkeypatch.setattr(elimination, "LEAF", leaf)
    assert [exact(net, x) for net, x in cases] == expected


@pytest.mark.parametrize("place", [0, 1, 700, 1500, 2399])
def test_a_new_row_in_a_long_tail_is_found_by_looking_ahead(place, monkeypatch):
    """2,400 repetitions of ten samples, and one that differs somewhere among them; all others are passed over."""
    net, few = fd.relu_mlp([4, 8, 6, 3], seed=0, bias_std=1.0), fd.gaussian_inputs(11, 4)
    x = few[:10].repeat(240, 1)
    x[place] = few[10]
    eliminated, eliminate_block = [], elimination._Eliminator.eliminate_block

    def counting(self, rows):
        eliminated.append(len(rows))
        return eliminate_block(self, rows)

    monkeypatch.setattr(elimination._Eliminator, "eliminate_block", counting)
    dim = fd.batch_functional_dimension(net, x, head="identity")
    assert dim.verified and int(dim) == oracle(net, few)
    assert sum(eliminated) <= elimination.BLOCK + 3


@pytest.mark.parametrize("widths, n", [([4, 8, 6, 3], 200), ([30, 4, 4, 10], 300), ([100, 6, 10], 400), ([40, 12, 5, 20], 250)])
def test_reached_at_is_where_the_rank_is_reached(widths, n):
    """Also where samples yield fewer independent rows than they have, so that not all are tried in order."""
    net, x = fd.relu_mlp(widths, seed=0, bias_std=1.0), fd.gaussian_inputs(n, widths[0])
    dim = fd.batch_functional_dimension(net, x)
    assert dim.verified and exact(net, x[: dim.reached_at]) == int(dim) > exact(net, x[: dim.reached_at - 1])


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
    net = nn.Sequential(nn.Linear(5000, 3, dtype=torch.float64), nn.ReLU(), nn.Linear(3, 2, dtype=torch.float64))
    x = fd.gaussian_inputs(6, 5000)
    assert exact(net, x) == oracle(net, x)
