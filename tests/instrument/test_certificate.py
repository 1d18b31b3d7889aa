"""What a verified rank promises: choices that nobody knows beforehand, checks that err as rarely as
they say, bounds that are theorems.
"""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import (
    PRIME,
    assert_rank_within_bounds,
    exact,
    networks_near_primes,
    oracle,
    rational_rank,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import fdimlib as fd
from fdimlib import systems
from fdimlib.draws import Draws
from fdimlib.eliminate import eliminate
from fdimlib.finite_field import PrimeField, is_prime
from fdimlib.rows import ExplicitRows

NET, X = fd.relu_mlp([3, 4, 4, 2], seed=1, bias_std=1.0), fd.gaussian_inputs(9, 3)


def fields(dim):
    return dim.value, dim.primes, dim.reached_at, dim.error_bound, dim.verified


FRESH = """
import fdimlib as fd
net, x = fd.relu_mlp([3, 4, 4, 2], seed=1, bias_std=1.0), fd.gaussian_inputs(9, 3)
dim = fd.batch_functional_dimension(net, x)
print((dim.value, dim.primes, dim.reached_at, dim.error_bound, dim.verified))
"""


def draws(net, x, **options):
    numbers = [number for layer in net[::2] for number in layer.parameters()]
    return Draws.of([*(number.detach() for number in numbers), x], **options)


# Inputs made to fool choices that are known beforehand.


def test_an_input_solved_for_a_known_direction_and_diagonal_is_not_rejected():
    """J z = 0 and J D Jᵀ = 0 for the z and D that seed 0 once gave: rank 0 was called verified."""
    x = torch.tensor([[155, 244, 183, 3690883, 1715437, 4193265]])
    assert exact(fd.relu_mlp([6, 1], seed=0), x) == 1


def test_an_input_that_a_known_prime_divides_keeps_its_rank():
    """Modulo 4194301, once everybody's prime, both samples are 0."""
    assert exact(fd.relu_mlp([1, 1]), torch.tensor([[0], [4194301]])) == 2


@settings(max_examples=300)
@given(networks_near_primes(), st.sampled_from(["identity", "softmax"]))
def test_numbers_near_multiples_of_primes_fool_nobody(case, head):
    net, x = case
    assert exact(net, x, head=head) == rational_rank(net, x, head)


# The random choices.


def test_the_same_input_gives_the_same_choices_here_and_in_a_fresh_process():
    here = fields(fd.batch_functional_dimension(NET, X))
    assert here == fields(fd.batch_functional_dimension(NET, X))
    call = [sys.executable, "-c", FRESH]
    fresh = subprocess.run(call, check=True, capture_output=True, text=True)
    assert fresh.stdout.strip() == str(here)


def test_one_bit_of_the_input_changes_the_choices():
    moved = X.clone()
    moved[4, 1] = torch.nextafter(X[4, 1], torch.tensor(9.0, dtype=torch.float64))
    first, second = (fd.batch_functional_dimension(NET, x) for x in (X, moved))
    assert first.primes != second.primes and int(first) == int(second)
    numbers = [draws(NET, x).generator("attempt").integers(2**62) for x in (X, moved)]
    assert numbers[0] != numbers[1]


def test_one_bit_of_a_parameter_changes_the_choices():
    moved = fd.relu_mlp([3, 4, 4, 2], seed=1, bias_std=1.0)
    with torch.no_grad():
        bias = moved[-1].bias
        bias[0] = torch.nextafter(bias[0], torch.tensor(9.0, dtype=torch.float64))
    found = [fd.batch_functional_dimension(net, X).primes for net in (NET, moved)]
    assert found[0] != found[1]


def test_options_and_seed_change_the_choices_and_not_the_rank():
    options = [{}, {"seed": 0}, {"seed": 1}, {"at": "region"}, {"head": "softmax"}]
    found = [fd.batch_functional_dimension(NET, X, **option) for option in options]
    assert len({dim.primes for dim in found}) == len(options)
    assert int(found[0]) == int(found[1]) == int(found[2])


def test_dtype_of_equal_numbers_and_kind_of_array_do_not_change_the_choices():
    x, net = X.round().abs(), fd.relu_mlp([3, 4, 2], seed=0).float()
    cases = [(net, x), (copy.deepcopy(net).double(), x.float()), (net, x.numpy()), (net, x.long())]
    assert len({fields(fd.batch_functional_dimension(*case)) for case in cases}) == 1


@pytest.mark.parametrize("seed", [1.5, -1, "0"])
def test_a_seed_is_a_whole_number_or_none(seed):
    with pytest.raises(ValueError, match=r"^seed: "):
        fd.batch_functional_dimension(NET, X, seed=seed)


def test_primes_are_all_those_of_22_bits_and_no_two_the_same():
    sieve = np.ones(2**22, dtype=bool)
    for d in range(2, 2048):
        sieve[d * d :: d] = False
    of_22_bits = 2**21 + np.flatnonzero(sieve[2**21 :])
    assert len(of_22_bits) == 140_336
    some = np.random.default_rng(0).integers(2**20, 2**21, 3000) * 2 + 1
    assert [is_prime(int(c)) for c in some] == sieve[some].tolist()
    drawn = [prime for prime, _ in zip(draws(NET, X).primes(), range(3000))]
    assert len(set(drawn)) == 3000 and set(drawn) <= set(of_22_bits.tolist())
    quarters = np.histogram(drawn, bins=4, range=(2**21, 2**22))[0]
    expected = 3000 / len(of_22_bits) * np.histogram(of_22_bits, bins=4, range=(2**21, 2**22))[0]
    assert ((quarters - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees, p = 0.001


# What is checked at random.


@pytest.mark.parametrize("n", [3, 256, 300])
def test_the_error_bound_counts_every_row_that_is_not_a_pivot(n):
    """The same sample n times: one pivot; the others are tested once, in its block or ahead."""
    dim = fd.batch_functional_dimension(fd.relu_mlp([1, 1]), torch.ones(n, 1))
    assert (int(dim), dim.bound, dim.verified) == (1, 2, True)
    assert dim.error_bound == pytest.approx((n - 1) / (dim.primes[0] - 1) ** 2, rel=1e-12)


def test_the_error_bound_is_zero_at_the_bound_and_none_for_the_svd():
    at_bound = fd.batch_functional_dimension(fd.relu_mlp([1, 1]), torch.arange(300.0)[:, None])
    assert (int(at_bound), at_bound.bound, at_bound.error_bound) == (2, 2, 0.0)
    assert fd.batch_functional_dimension(NET, X, method="svd").error_bound is None


def test_an_independent_row_is_rejected_as_often_as_the_error_bound_says():
    """(1, 2) is isotropic modulo 5 for D = 1, so that the test alone stands between it and loss."""
    field, runs = PrimeField(5), 1600
    source = ExplicitRows(torch.tensor([[1.0, 2.0]]).double(), torch.ones(2).double(), field)
    found = [eliminate(source, field, np.random.default_rng(seed), bound=2) for seed in range(runs)]
    assert {run.error_bound for run in found} == {1 / 16}
    wrong = sum(run.verified for run in found)
    assert {run.rank for run in found} == {0}
    assert abs(wrong / runs - 1 / 16) < 4 * (1 / 16 * 15 / 16 / runs) ** 0.5


class Unlucky(systems.KroneckerRows):
    """D vanishes on all layers but those that `kept` lists for each attempt in turn."""

    def __init__(self, *args):
        super().__init__(*args)
        layers = self.kept.pop(0)
        self.u = [u * (layer in layers) for layer, u in enumerate(self.u)]


def test_all_attempts_failing_gives_the_best_lower_bound_not_verified(monkeypatch):
    monkeypatch.setattr(Unlucky, "kept", [[], [1, 2], [2]], raising=False)
    monkeypatch.setattr(systems, "KroneckerRows", Unlucky)
    dim = fd.batch_functional_dimension(NET, X)
    last_two_layers = fd.jacobian(NET, X)[:, 16:]
    assert int(dim) == torch.linalg.matrix_rank(last_two_layers) < rational_rank(NET, X)
    assert not dim.verified and "NOT VERIFIED" in str(dim)
    assert not Unlucky.kept


def test_an_unlucky_diagonal_is_drawn_again(monkeypatch):
    """The first draw of D vanishes, so K = 0: nothing is lost, the next draw settles it."""
    monkeypatch.setattr(Unlucky, "kept", [[], [0, 1, 2]], raising=False)
    monkeypatch.setattr(systems, "KroneckerRows", Unlucky)
    dim = fd.batch_functional_dimension(NET, X)
    assert dim.verified and int(dim) == rational_rank(NET, X) and not Unlucky.kept
    tests = dim.error_bound * (dim.primes[0] - 1) ** 2
    assert tests == pytest.approx(18 + 18 - int(dim))  # all rows of the first attempt count as well


# What remains: the prime.


def test_a_second_prime_recovers_what_the_first_lost(monkeypatch):
    monkeypatch.setattr(Draws, "primes", lambda self: iter([4194301, 4194287]))
    net, x = fd.relu_mlp([1, 1]), torch.tensor([[0], [4194301]])
    lost = fd.batch_functional_dimension(net, x)
    assert (int(lost), lost.primes, lost.verified) == (1, (4194301,), True)
    assert lost.error_bound > 0
    both = fd.batch_functional_dimension(net, x, repeats=2)
    assert (int(both), both.primes, both.error_bound) == (2, (4194301, 4194287), 0.0)


def test_a_second_unlucky_prime_takes_nothing_away(monkeypatch):
    """The rank reported, its error bound and where it is reached are those of the best run."""
    monkeypatch.setattr(Draws, "primes", lambda self: iter([4194287, 4194301]))
    net, x = fd.relu_mlp([2, 1]), torch.tensor([[0, 0], [4194301, 0], [4194301, 0]])
    one, two = (fd.batch_functional_dimension(net, x, repeats=k) for k in (1, 2))
    assert (int(one), one.bound) == (2, 3) and two.primes == (4194287, 4194301)
    assert (int(two), two.error_bound, two.reached_at) == (2, one.error_bound, 2)


def test_more_primes_give_the_same_rank():
    one, three = (fd.batch_functional_dimension(NET, X, repeats=k) for k in (1, 3))
    assert int(one) == int(three) == oracle(NET, X)
    assert len(set(three.primes)) == 3 and three.primes[:1] == one.primes
    assert PRIME not in three.primes  # the oracle's own


# What is proved: bounds that are theorems.


def test_a_bound_that_is_too_small_would_be_noticed(monkeypatch):
    """The fast route stops at any bound and believes it; the rank to compare with does not."""
    net, x = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0), fd.gaussian_inputs(30, 3)
    rank = rational_rank(net, x)
    for module in (systems, fd.symmetries):
        monkeypatch.setattr(module, "bound_of", lambda network, n=None: rank - 3)
    dim = fd.batch_functional_dimension(net, x)
    assert (int(dim), dim.bound, dim.verified, dim.error_bound) == (rank - 3, rank - 3, True, 0.0)
    with pytest.raises(AssertionError):
        assert_rank_within_bounds(net, x, "identity")
