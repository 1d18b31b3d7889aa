"""Floating point with a running error bound: decides nearly all signs, and says which it cannot.

The bounds are those of Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: for k
terms |fl(Σ a_i b_i) − Σ a_i b_i| ≤ γ_k Σ |a_i b_i|, carried from operator to operator. An error of
0 means that the number is exact. What overflows has an infinite error, or none that compares.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fdimlib.operators import take

UNIT = 2.0**-53
TINY = 2.0**-1022  # a term; covers underflow
SLACK = 1.01  # the rounding of the bounds themselves


class Bounded(NamedTuple):
    """Numbers (F, n) and bounds of their errors."""

    value: Tensor
    error: Tensor

    @property
    def exact_zero(self) -> Tensor:
        return (self.value == 0) & (self.error == 0)

    def map(self, function: object) -> "Bounded":
        return Bounded(function(self.value), function(self.error))  # type: ignore[operator]


class BoundedNumbers:
    """The arithmetic, in float64."""

    def __init__(self, device: torch.device):
        self.device = device

    def constant(self, values: Tensor) -> Bounded:
        values = values.to(self.device)
        return Bounded(values, torch.zeros_like(values))

    def take(self, x: Bounded, index: Tensor) -> Bounded:
        return x.map(lambda t: take(t, index))

    def join(self, parts: Sequence[Bounded]) -> Bounded:
        samples = max(part.value.shape[1] for part in parts)
        return Bounded(torch.cat([part.value.expand(-1, samples) for part in parts]),
                       torch.cat([part.error.expand(-1, samples) for part in parts]))

    def add(self, x: Bounded, y: Bounded) -> Bounded:
        """What the addition itself loses is known exactly (Knuth's TwoSum)."""
        value = x.value + y.value
        back = value - x.value
        lost = (x.value - (value - back)) + (y.value - back)
        return Bounded(value, SLACK * (x.error + y.error + lost.abs()))

    def negate(self, x: Bounded) -> Bounded:
        return Bounded(-x.value, x.error)

    def multiply(self, x: Bounded, y: Bounded) -> Bounded:
        value = x.value * y.value
        error = x.value.abs() * y.error + (y.value.abs() + y.error) * x.error
        error = SLACK * (error + UNIT * value.abs()) + TINY
        zero = x.exact_zero | y.exact_zero
        return Bounded(torch.where(zero, 0, value), torch.where(zero, 0, error))

    def divide(self, x: Bounded, odd: Tensor) -> Bounded:
        """The divisor itself may be rounded, too."""
        divisor = odd.to(self.device, torch.float64)[:, None]
        value = x.value / divisor
        error = SLACK * (x.error / divisor.abs() + 3 * UNIT * value.abs()) + TINY
        exact = x.exact_zero | ((divisor.abs() == 1) & (x.error == 0))
        return Bounded(value, torch.where(exact, 0, error))

    def masked(self, x: Bounded, mask: Tensor) -> Bounded:
        return x.map(lambda t: torch.where(mask, t, 0))

    def sum_windows(self, x: Bounded, count: int) -> Bounded:
        value, error = (t.unflatten(0, (count, -1)) for t in x)
        size = value.abs().sum(dim=0)
        terms = (~x.exact_zero).unflatten(0, (count, -1)).sum(dim=0)
        lost = torch.where(terms > 1, terms * UNIT * size, 0)
        return Bounded(value.sum(dim=0), SLACK * (error.sum(dim=0) + lost))

    def pick(self, x: Bounded, count: int, code: Tensor) -> Bounded:
        at = code.long()[None]
        return x.map(lambda t: t.unflatten(0, (count, -1)).expand(-1, -1, code.shape[1])
                     .gather(0, at)[0])

    def product(self, w: Bounded, x: Bounded, shape: tuple[int, int, int, int]) -> Bounded:
        groups, outputs, inner, positions = shape
        weight, of_weight = (t.reshape(groups, outputs, inner) for t in w)
        value, error = (t.reshape(groups, inner, -1) for t in x)
        size, large = weight.abs() + of_weight, value.abs() + error
        lost = error + (inner + 2) * UNIT * large
        lost = SLACK * (size @ lost + (of_weight @ large if of_weight.any() else 0))
        z = weight @ value
        # A sum whose terms are all 0 has the bound 0, and no other, if no product underflows.
        nothing = (lost == 0) & (_least(size) * _least(large) * UNIT > TINY)
        z, lost = torch.where(nothing, 0, z), torch.where(nothing, 0, lost + inner * TINY)
        rows = groups * outputs * positions
        return Bounded(z.reshape(rows, -1), lost.reshape(rows, -1))

    def sign(self, x: Bounded) -> tuple[Tensor, Tensor]:
        sure = (x.value.abs() > x.error) | (x.error == 0)
        return x.value.sign().to(torch.int8), sure


def _least(t: Tensor) -> float:
    """The smallest number that is not 0; 1 if there is none."""
    return min(1.0, torch.where(t == 0, 1, t).min().item()) if t.numel() else 1.0
