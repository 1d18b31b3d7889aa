"""Random choices that nobody knows before the input is there, and that everybody can repeat.

The exact rank rests on random choices: the prime p, the diagonal D, the directions z of the row
test, the right-hand side of the last check, with at="region" the parameters too. Each promise of
`certificate.py` holds for inputs that do not depend on these choices. With choices known in
advance an input can be made to depend on them: numbers that a known prime divides are 0 modulo it,
and J z = 0 can be solved for a known z.

So all choices are derived from a SHA-256 hash of everything that the rank is computed from: θ, X
and the options (the heuristic of Fiat and Shamir 1986; that a hash is as good as random is
assumed). The same input gives the same prime on every machine, and the same other choices as long
as NumPy's Generator has the same streams, which a later release may change; a change of one bit
gives unrelated ones. What is left to somebody who wants to be fooled is to try one input after
another until the hash happens to suit: for a prime that divides a minor, perhaps 10^5 of them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from fdimlib.finite_field import SMALLEST, is_prime

PRIMES = 140_336  # of 22 bits
VERSION = "fdimlib, random choices of the exact rank, 1"


@dataclass(frozen=True)
class Draws:
    """All random choices for one input."""

    digest: bytes

    @classmethod
    def of(cls, tensors: Iterable[Tensor | None], **options: object) -> "Draws":
        """The choices for these numbers (shape and float64 bytes of each) and these options.

        >>> x = torch.ones(3)
        >>> Draws.of([x], head="softmax") == Draws.of([x.float()], head="softmax")
        True
        >>> Draws.of([x]) == Draws.of([x[None]]), Draws.of([x]) == Draws.of([x], seed=0)
        (False, False)
        """
        numbers = [None if t is None else _float64(t) for t in tensors]
        shapes = [None if array is None else array.shape for array in numbers]
        digest = hashlib.sha256(repr((VERSION, sorted(options.items()), shapes)).encode())
        for array in numbers:
            if array is not None:
                digest.update(array.reshape(-1).view(np.uint8).data)
        return cls(digest.digest())

    def generator(self, *purpose: object) -> np.random.Generator:
        """The source of the choices for one purpose, seeded with 256 bits."""
        words = np.frombuffer(self._hash("generator", *purpose), "<u4")
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words, pool_size=8)))

    def primes(self) -> Iterator[int]:
        """Primes of 22 bits, uniformly distributed, each other than those before.

        An integer N ≠ 0 is lost modulo a prime that divides it. At most log2|N| / 21 primes of 22
        bits do, of 140,336.
        """
        seen = set()
        for number in count():
            odd_number = int.from_bytes(self._hash("prime", number), "little") % 2**20
            candidate = SMALLEST + 2 * odd_number
            if candidate not in seen and is_prime(candidate):
                seen.add(candidate)
                yield candidate

    def _hash(self, *purpose: object) -> bytes:
        return hashlib.sha256(self.digest + repr(purpose).encode()).digest()


def _float64(tensor: Tensor) -> np.ndarray:
    """Contiguous, little-endian."""
    array = tensor.detach().to("cpu", torch.float64).contiguous().numpy()
    return array.astype("<f8", copy=False)
