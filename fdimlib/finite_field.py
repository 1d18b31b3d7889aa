"""Exact arithmetic modulo a prime in float64 matrix products, on CPU and CUDA.

A residue is kept as the integer of least absolute value in its class, |r| ≤ 2^21 for a prime of
22 bits. A product of two is at most 2^42, so up to 2,047 of them, and a residue, add up below
2^53, where float64 holds every integer: whatever order the hardware sums in, with or without
fused multiply-add, nothing is rounded. One reduction after each such product gives residues
again. The technique is that of FFLAS-FFPACK (Dumas, Giorgi, Pernet 2008), here on torch's own
matmul. A residue fits float32 (24 bits), which halves the memory of what is only stored.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

SMALLEST, LARGEST = 2**21 + 1, 2**22 - 1  # odd numbers of 22 bits; 140,336 primes lie between
INNER = 2040  # products summed before a reduction: below 2,047, a multiple of 8
PART = 2**16  # numbers taken into the field at once, so that the intermediate steps stay in cache
LOWEST, HIGHEST = -1074 - 53, 1024  # exponents of a float64 as an integer of 53 bits times 2^e

_ODD = math.prod(range(3, 2048, 2))  # any composite odd number below 2^22 shares a factor with it


def is_prime(candidate: int) -> bool:
    """Whether an odd number of 22 bits is prime: trial division by all at once.

    >>> is_prime(4194301), is_prime(2047 * 2039)
    (True, False)
    """
    return math.gcd(candidate, _ODD) == 1


def primes(count: int) -> list[int]:
    """The `count` largest primes of 22 bits, in descending order: fixed ones, for the slow oracle.

    >>> primes(2)
    [4194301, 4194287]
    """
    found: list[int] = []
    candidate = LARGEST
    while len(found) < count:
        if is_prime(candidate):
            found.append(candidate)
        candidate -= 2
    return found


@dataclass(frozen=True)
class PrimeField:
    """Arithmetic modulo the prime p on float64 tensors of least residues."""

    p: int

    def reduce_(self, x: Tensor) -> Tensor:
        """Least residues of integers below 2^53 in absolute value, in place.

        The quotient may be one off at a tie, which leaves |r| ≤ (p + 1)/2: a residue still is 0
        only as the number 0.
        """
        return x.sub_(torch.mul(x, 1.0 / self.p).round_(), alpha=self.p)

    def subtract_product_(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """c − a·b in place, all of residues; the inner dimension may have any length."""
        for start in range(0, a.shape[-1], INNER):
            part = slice(start, start + INNER)
            c = self.reduce_(c.addmm_(a[:, part].to(c), b[part].to(c), alpha=-1))
        return c

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """a·b of residue matrices, or of batches of them."""
        if a.shape[-1] <= INNER:
            return self.reduce_(a @ b)
        if a.dim() == 2:
            return self.subtract_product_(a.new_zeros(a.shape[0], b.shape[1]), a, -b)
        c = self.reduce_(a[..., :INNER] @ b[..., :INNER, :])
        for start in range(INNER, a.shape[-1], INNER):
            part = slice(start, start + INNER)
            c = self.reduce_(c.add_(a[..., part] @ b[..., part, :]))
        return c

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """The elementwise product, broadcast."""
        return self.reduce_(a * b)

    def lift(self, integers: Tensor, device: torch.device | str | None = None) -> Tensor:
        """int64 values as residues."""
        return self.reduce_(integers.remainder(self.p).to(device, torch.float64))

    def inverse(self, integers: Tensor) -> Tensor:
        """1 / integers (int64), residues.

        Raises:
            ZeroDivisionError: p divides one of them.

        >>> PrimeField(7).inverse(torch.tensor([1, 2])).tolist()  # 2·4 = 8 = 1, and 4 = -3
        [1.0, -3.0]
        """
        values, places = torch.unique(integers.cpu(), return_inverse=True)
        if (values % self.p == 0).any():
            raise ZeroDivisionError(f"{self.p} divides a number by which the network divides")
        inverses = [pow(value, -1, self.p) for value in values.tolist()]
        return self.lift(torch.tensor(inverses)[places], integers.device)

    def image(self, x: Tensor) -> Tensor:
        """The residues of floating-point numbers, exact fractions m·2^e: 2 has an inverse.

        >>> PrimeField(7).image(torch.tensor([0.5, 3.0])).tolist()  # 2·4 = 8 = 1, so 1/2 = 4 = -3
        [-3.0, 3.0]
        """
        out = torch.empty(x.numel(), dtype=torch.float64, device=x.device)
        for part, place in zip(x.detach().flatten().split(PART), out.split(PART)):
            mantissa, exponent = np.frexp(part.cpu().to(torch.float64).numpy())
            integers = (mantissa * 2.0**53).astype(np.int64) % self.p
            powers = self._powers_of_two[exponent - 53 - LOWEST]
            place.copy_(self.lift(torch.from_numpy(integers * powers)))
        return out.reshape(x.shape)

    def random(self, *shape: int, generator: np.random.Generator,
               device: torch.device | str | None = None) -> Tensor:
        """Independent uniform non-zero residues; the same numbers on every device."""
        integers = torch.from_numpy(generator.integers(1, self.p, size=shape))
        return self.reduce_(integers.to(device, torch.float64))

    @cached_property
    def _powers_of_two(self) -> np.ndarray:
        """2^e modulo p for every exponent from LOWEST up: the first few, then doubled in number."""
        powers = pow(2, LOWEST, self.p) * 2 ** np.arange(40) % self.p
        while len(powers) <= HIGHEST - LOWEST:
            powers = np.concatenate([powers, powers * pow(2, len(powers), self.p) % self.p])
        return powers
