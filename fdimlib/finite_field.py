"""Exact arithmetic modulo a prime in float64 matrix products, on CPU and CUDA.

A residue is kept as the integer of least absolute value in its class, |r| ≤ 2^21 for a prime of 22 bits. A product of two
is at most 2^42, so up to 2,047 of them, and a residue, add up below 2^53, where float64 holds every integer: whatever
order the hardware sums in, with or without fused multiply-add, nothing is rounded. One reduction after each such product
gives residues again. The technique is that of FFLAS-FFPACK (Dumas, Giorgi, Pernet 2008), here on torch's own matmul.
A residue fits float32 (24 bits), which halves the memory of what is only stored.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

INNER = 2040  # products summed before a reduction: below 2,047, a multiple of 8
PART = 2**16  # numbers taken into the field at once, so that the intermediate steps stay in cache
LOWEST = -1074 - 53  # the smallest exponent of a float64 written as an integer of 53 bits times a power of two


def primes(count: int) -> list[int]:
    """The `count` largest primes of 22 bits, in descending order.

    >>> primes(2)
    [4194301, 4194287]
    """
    found, candidate = [], 2**22 - 1
    while len(found) < count:
        if all(candidate % d for d in range(3, 2049, 2)):
            found.append(candidate)
        candidate -= 2
    return found


@cache
def _powers_of_two(p: int) -> np.ndarray:
    """2^e modulo p for every exponent that the integer mantissa of a float64 can have, from LOWEST up."""
    return np.array([pow(2, e, p) for e in range(LOWEST, 1025)])


@dataclass(frozen=True)
class PrimeField:
    """Arithmetic modulo the prime p on float64 tensors of least residues."""

    p: int

    def reduce_(self, x: Tensor) -> Tensor:
        """Least residues of integers below 2^53 in absolute value, in place.

        The quotient may be one off at a tie, which leaves |r| ≤ (p + 1)/2: a residue still is 0 only as the number 0.
        """
        return x.sub_(torch.mul(x, 1.0 / self.p).round_(), alpha=self.p)

    def subtract_product_(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """c − a·b in place, all of residues; the inner dimension may have any length."""
        for start in range(0, a.shape[-1], INNER):
            part = slice(start, start + INNER)
            c = self.reduce_(c.addmm_(a[:, part].to(c), b[part].to(c), alpha=-1))
        return c

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """a·b of residue matrices."""
        if a.shape[-1] <= INNER:
            return self.reduce_(a @ b)
        return self.subtract_product_(a.new_zeros(a.shape[0], b.shape[1]), a, -b)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """The elementwise product, broadcast."""
        return self.reduce_(a * b)

    def inverse(self, x: Tensor) -> Tensor:
        """1/x of each entry of a vector without zeros (Python's three-argument pow)."""
        return self.lift(torch.tensor([pow(int(v), -1, self.p) for v in x.tolist()]), x.device)

    def lift(self, integers: Tensor, device=None) -> Tensor:
        """int64 values as residues."""
        return self.reduce_(integers.remainder(self.p).to(device, torch.float64))

    def image(self, x: Tensor) -> Tensor:
        """The residues of floating-point numbers, exact fractions m·2^e: 2 has an inverse modulo an odd prime.

        >>> PrimeField(7).image(torch.tensor([0.5, 3.0])).tolist()   # 2·4 = 8 = 1 modulo 7, so 1/2 = 4 = -3
        [-3.0, 3.0]
        """
        out = torch.empty(x.numel(), dtype=torch.float64, device=x.device)
        for part, place in zip(x.detach().flatten().split(PART), out.split(PART)):
            mantissa, exponent = np.frexp(part.cpu().to(torch.float64).numpy())
            integers = (mantissa * 2.0**53).astype(np.int64) % self.p
            place.copy_(self.lift(torch.from_numpy(integers * _powers_of_two(self.p)[exponent - 53 - LOWEST])))
        return out.reshape(x.shape)

    def random(self, *shape: int, generator: torch.Generator, device=None) -> Tensor:
        """Uniform non-zero residues; the same numbers on every device."""
        return self.lift(torch.randint(1, self.p, shape, generator=generator), device)
