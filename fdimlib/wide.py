"""Integers of any length in float64 matrix products, for the signs that floating point leaves open.

A number is an integer times a fraction that all entries of its tensor share, and an error bound:

    x = s · Σ_l d_l 2^(20 l)  ±  error,      d_l whole, |d_l| ≤ 2^19, s a fraction.

Sums and products of floating-point numbers are such numbers exactly, and so are quotients by whole
numbers. Digits are multiplied in matrix products like residues: 2^13 products of two digits add up
below 2^53, where float64 holds every integer. Numbers grow with the depth of a network; what is
longer than `limit` digits is cut, and only then there is an error. So a limit of a few digits gives
a sign that is not 0, nearly always, and a limit that is high enough gives any sign.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fdimlib.bounded import SLACK
from fdimlib.operators import take

BITS = 20
BASE = 2**BITS
INNER = 2**13  # products of digits summed before a carry


@dataclass(frozen=True)
class Wide:
    """Numbers (F, n): digits (L, F, n), their scale s, and bounds of their errors."""

    digits: Tensor
    scale: Fraction
    error: Tensor

    def map(self, function: object) -> "Wide":
        """A function that moves entries, on (F, n)."""
        digits = torch.stack([function(digit) for digit in self.digits])  # type: ignore[operator]
        return replace(self, digits=digits, error=function(self.error))  # type: ignore[operator]

    def size(self) -> Tensor:
        """|x| in floating point, within a factor of 1 ± 2^-40 but for the error."""
        return _size(self.digits, self.scale)


def _size(digits: Tensor, scale: Fraction) -> Tensor:
    top = len(digits) - 1
    value = torch.zeros_like(digits[0])
    for place, digit in enumerate(digits):
        value += digit * 2.0 ** max(BITS * (place - top), -1000)
    return value.abs() * _float(scale * BASE**top)


def _float(number: Fraction) -> float:
    """A float; infinite where it is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def carried_(digits: Tensor) -> Tensor:
    """The same numbers with |d_l| ≤ 2^19, in place; whole digits below 2^52 go in."""
    for digit, above in pairwise(digits):
        carry = (digit / BASE).round_()
        digit.sub_(carry, alpha=BASE)
        above.add_(carry)
    carry = (digits[-1] / BASE).round_()
    while carry.any():
        digits[-1].sub_(carry, alpha=BASE)
        digits = torch.cat([digits, carry[None]])
        carry = (digits[-1] / BASE).round_()
    return digits


def digits_of(numerators: Tensor, shifts: Tensor) -> Tensor:
    """Digits of m · 2^s for int64 m below 2^62 and s ≥ 0, tensors of the same shape."""
    size, sign = numerators.abs(), numerators.sign().double()
    whole, rest = shifts // BITS, shifts % BITS
    length = int(whole.max()) + 5
    digits = torch.zeros(length, *numerators.shape, dtype=torch.float64)
    for place in range(4):
        digit = (size >> (BITS * place)) % BASE
        value = digit.double() * (2.0**rest.double()) * sign
        digits.scatter_add_(0, (whole + place)[None], value[None])
    return carried_(digits)


class WideNumbers:
    """The arithmetic, with numbers cut at `limit` digits."""

    def __init__(self, device: torch.device, limit: int):
        self.device, self.limit = device, limit

    def _tidy(self, digits: Tensor, scale: Fraction, error: Tensor) -> Wide:
        """Carried, without digits that are 0 everywhere at either end, cut at the limit.

        Digits that are new; they are overwritten.
        """
        digits = carried_(digits)
        used = digits.flatten(1).any(dim=1).nonzero()[:, 0].tolist() or [0]
        low, high = used[0], used[-1] + 1
        cut = high - low - self.limit
        if cut > 0:
            below = digits[low : low + cut]
            lost = _size(below, scale * BASE**low) + 2.0**-1022
            error = SLACK * (error + torch.where(below.any(dim=0), lost, 0))
            low += cut
        return Wide(digits[low:high], scale * BASE**low, error)

    def constant(self, values: Tensor) -> Wide:
        mantissa, exponent = np.frexp(values.cpu().numpy())
        integers = torch.from_numpy((mantissa * 2.0**53).astype(np.int64))
        shifts = torch.from_numpy(exponent.astype(np.int64)) - 53
        lowest = int(shifts[integers != 0].min()) if integers.any() else 0
        shifts = torch.where(integers == 0, 0, shifts - lowest)
        digits = digits_of(integers, shifts).to(self.device)
        return self._tidy(digits, Fraction(2) ** lowest, torch.zeros_like(digits[0]))

    def take(self, x: Wide, index: Tensor) -> Wide:
        return x.map(lambda t: take(t, index))

    def join(self, parts: Sequence[Wide]) -> Wide:
        first, samples = parts[0], max(part.error.shape[1] for part in parts)
        for part in parts[1:]:
            a, b, scale = self._same_scale(first, part)
            digits = torch.cat([a.expand(-1, -1, samples), b.expand(-1, -1, samples)], dim=1)
            error = torch.cat([first.error.expand(-1, samples), part.error.expand(-1, samples)])
            first = self._tidy(digits, scale, error)
        return first

    def _same_scale(self, x: Wide, y: Wide) -> tuple[Tensor, Tensor, Fraction]:
        """The digits of both, equally many, at one scale."""
        ratio = x.scale / y.scale
        a = _times(x.digits, ratio.numerator)
        b = _times(y.digits, ratio.denominator)
        length = max(len(a), len(b))
        return _padded(a, length), _padded(b, length), x.scale / ratio.numerator

    def add(self, x: Wide, y: Wide) -> Wide:
        a, b, scale = self._same_scale(x, y)
        error = x.error + y.error
        return self._tidy(a + b, scale, SLACK * error)

    def negate(self, x: Wide) -> Wide:
        return replace(x, digits=-x.digits)

    def multiply(self, x: Wide, y: Wide) -> Wide:
        shape = torch.broadcast_shapes(x.error.shape, y.error.shape)
        digits = x.digits.new_zeros(len(x.digits) + len(y.digits), *shape)
        for place, digit in enumerate(x.digits):
            digits[place : place + len(y.digits)] += digit * y.digits
        error = _of_product(x.size() + x.error, y.error) + _of_product(y.size(), x.error)
        return self._tidy(digits, x.scale * y.scale, SLACK * error.expand(shape))

    def divide(self, x: Wide, odd: Tensor) -> Wide:
        divisors = odd.tolist()
        common = math.lcm(*divisors)
        digits = x.digits
        factors = [abs(common // divisor) for divisor in divisors]
        if len(set(factors)) > 1:
            digits = sum(_padded(_times(digits * of_factor[None, :, None], factor),
                                 len(digits) + _length(max(factors)))
                         for factor in set(factors)
                         for of_factor in [torch.tensor([f == factor for f in factors])
                                           .to(digits)])  # type: ignore[assignment]
        else:
            digits = _times(digits, factors[0])
        signs = odd.sign().to(digits)[:, None]
        error = x.error / odd.to(digits).abs()[:, None]
        return self._tidy(digits * signs, x.scale / common, SLACK * error)

    def masked(self, x: Wide, mask: Tensor) -> Wide:
        return x.map(lambda t: torch.where(mask, t, 0))

    def sum_windows(self, x: Wide, count: int) -> Wide:
        digits = x.digits.unflatten(1, (count, -1)).sum(dim=1)
        return self._tidy(digits, x.scale, SLACK * x.error.unflatten(0, (count, -1)).sum(dim=0))

    def pick(self, x: Wide, count: int, code: Tensor) -> Wide:
        at = code.long()[None]
        return x.map(lambda t: t.unflatten(0, (count, -1)).expand(-1, -1, code.shape[1])
                     .gather(0, at)[0])

    def product(self, w: Wide, x: Wide, shape: tuple[int, int, int, int]) -> Wide:
        groups, outputs, inner, _ = shape
        weights = w.digits.reshape(-1, groups, outputs, inner)
        patches = x.digits.reshape(len(x.digits), groups, inner, -1)
        size = (groups, outputs, patches.shape[-1])
        digits = patches.new_zeros(len(weights) + len(patches), *size)
        summed = 0  # products of two digits, since the last carry
        for place, weight in enumerate(weights):
            for start in range(0, inner if weight.any() else 0, INNER):
                part = slice(start, start + INNER)
                summed += min(inner - start, INNER)
                if summed > INNER:
                    digits, summed = carried_(digits), min(inner - start, INNER)
                digits[place : place + len(patches)] += weight[..., part] @ patches[:, :, part]
        error = digits.new_zeros(size)
        if x.error.any() or w.error.any():
            large = (w.size() + w.error).reshape(groups, outputs, inner)
            of_input = x.error.reshape(groups, inner, -1)
            of_weight = w.error.reshape(groups, outputs, inner)
            error = large @ of_input + of_weight @ x.size().reshape(groups, inner, -1)
        rows = groups * outputs * shape[3]
        return self._tidy(digits.reshape(len(digits), rows, -1), w.scale * x.scale,
                          SLACK * error.reshape(rows, -1))

    def sign(self, x: Wide) -> tuple[Tensor, Tensor]:
        """The sign of the highest digit that is not 0; the lower ones weigh less than it."""
        sign = torch.zeros_like(x.error)
        for digit in x.digits:
            sign = torch.where(digit == 0, sign, digit.sign())
        sure = (x.error == 0) | (x.size() > SLACK * x.error)
        return sign.to(torch.int8), sure


def _of_product(size: Tensor, error: Tensor) -> Tensor:
    """size · error, 0 where there is no error."""
    return torch.where(error == 0, 0, size * error)


def _length(number: int) -> int:
    return number.bit_length() // BITS + 2


def _padded(digits: Tensor, length: int) -> Tensor:
    above = digits.new_zeros(max(length - len(digits), 0), *digits.shape[1:])
    return torch.cat([digits, above])


def _times(digits: Tensor, factor: int) -> Tensor:
    """A positive whole number times the number of these digits."""
    if factor == 1:
        return digits
    product = digits.new_zeros(len(digits) + _length(factor), *digits.shape[1:])
    place = 0
    while factor:
        factor, digit = divmod(factor, BASE)
        if digit:
            product[place : place + len(digits)] += digit * digits
        place += 1
    return carried_(product)
