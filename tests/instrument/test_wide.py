"""Whole numbers of any length in floating point, and signs that floating point leaves open."""

from fractions import Fraction

import helpers  # noqa: F401  # the settings of hypothesis
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fdimlib as fd
from fdimlib.bounded import BoundedNumbers
from fdimlib.decisions import _open, _run_certified
from fdimlib.systems import read_system
from fdimlib.wide import WideNumbers

CPU = torch.device("cpu")
floats = st.floats(allow_nan=False, allow_infinity=False, width=64)
tables = st.lists(st.lists(floats, min_size=4, max_size=4), min_size=2, max_size=2)


def fractions(wide):
    """The numbers themselves, entry by entry."""
    digits = wide.digits.reshape(len(wide.digits), -1).T.tolist()
    return [wide.scale * sum(int(d) * 2 ** (20 * place) for place, d in enumerate(row))
            for row in digits]


def exact(numbers):
    return [Fraction(number) for number in numbers]


def columns(table):
    return [torch.tensor(row, dtype=torch.float64)[:, None] for row in table]


@given(tables)
def test_sums_products_and_quotients_are_exact(table):
    numbers = WideNumbers(CPU, 10**6)
    x, y = map(numbers.constant, columns(table))
    a, b = map(exact, table)
    assert fractions(x) == a and fractions(y) == b
    assert fractions(numbers.add(x, y)) == [p + q for p, q in zip(a, b)]
    assert fractions(numbers.multiply(x, y)) == [p * q for p, q in zip(a, b)]
    assert fractions(numbers.sum_windows(x, 2)) == [a[0] + a[2], a[1] + a[3]]
    odd = [3, -7, 1, 3]
    assert fractions(numbers.divide(x, torch.tensor(odd))) == [p / q for p, q in zip(a, odd)]
    product = numbers.product(x, y, (1, 2, 2, 2))
    assert fractions(product) == [a[2 * o] * b[t] + a[2 * o + 1] * b[2 + t]
                                  for o in range(2) for t in range(2)]
    joined = numbers.join([x, numbers.divide(y, torch.tensor([9] * 4))])
    assert fractions(joined) == [*a, *(q / 9 for q in b)]


@given(tables, st.integers(1, 5))
def test_what_is_cut_is_within_the_error_and_a_sign_is_said_only_if_it_is_right(table, limit):
    numbers = WideNumbers(CPU, limit)
    x, y = map(numbers.constant, columns(table))
    a, b = map(exact, table)
    for found, true in [
        (numbers.add(numbers.multiply(x, y), x), [p * q + p for p, q in zip(a, b)]),
        (numbers.product(x, y, (1, 2, 2, 2)), [
            a[2 * o] * b[t] + a[2 * o + 1] * b[2 + t] for o in range(2) for t in range(2)]),
    ]:
        errors = found.error.flatten().tolist()
        for value, error, right in zip(fractions(found), errors, true):
            assert error == float("inf") or abs(value - right) <= Fraction(error)
        sign, sure = numbers.sign(found)
        for said, proved, right in zip(sign.flatten(), sure.flatten(), true):
            assert not proved or said == (right > 0) - (right < 0)


@given(tables)
def test_floating_point_says_a_sign_only_if_it_is_right(table):
    numbers = BoundedNumbers(CPU)
    x, y = map(numbers.constant, columns(table))
    a, b = map(exact, table)
    for found, true in [
        (numbers.add(numbers.multiply(x, y), x), [p * q + p for p, q in zip(a, b)]),
        (numbers.add(x, numbers.divide(y, torch.tensor([3] * 4))),
         [p + q / 3 for p, q in zip(a, b)]),
        (numbers.product(x, y, (1, 2, 2, 2)), [
            a[2 * o] * b[t] + a[2 * o + 1] * b[2 + t] for o in range(2) for t in range(2)]),
    ]:
        sign, sure = numbers.sign(found)
        for said, proved, right in zip(sign.flatten(), sure.flatten(), true):
            assert not proved or said == (right > 0) - (right < 0)


def test_a_sign_that_rounding_hides_behind_a_mean_over_nine_is_right():
    """(1/9 of nine numbers) − what floating point makes of it is not 0."""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x):
            mean = x[:, :9].mean(dim=1, keepdim=True)
            return ((mean - x[:, 9:]) * self.scale).relu()

    x = torch.full((1, 9), 0.1, dtype=torch.float64)
    x[0, 3] += 1e-17 + 0.3
    true = sum(exact(x[0].tolist())) / 9
    near = float(true)
    x = torch.cat([x, torch.tensor([[near, near]], dtype=torch.float64)], dim=1)
    dim = fd.batch_functional_dimension(Net(), x)
    assert int(dim) == 2 * (true > Fraction(near))
    assert dim.zero_preactivations == 2 * (true == Fraction(near))


def test_deep_networks_beyond_the_reach_of_floating_point_are_decided():
    """The error bound of float64 grows with every layer, the numbers do not."""
    net = fd.relu_mlp([6] * 60, seed=0)
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.mul_(1.6)
    x = fd.gaussian_inputs(5, 6)
    names = [name for name, _ in net.named_parameters()][1:]  # all but one: not as plain layers
    system = read_system(net, x, None, names, "cpu").system
    choices = _run_certified(system.program, BoundedNumbers(CPU), x.T.contiguous())
    assert len(_open(choices, len(x)))
    codes = torch.cat([code for _, code in sorted(system.decisions.codes.items())])
    assert torch.equal(codes.T == 2, fd.activation_pattern(net, x))
