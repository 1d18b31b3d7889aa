"""Residues modulo a prime as the arithmetic of operators: what is computed is exact, and small.

Nothing is decided here: residues have no sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fdimlib.finite_field import PrimeField
from fdimlib.operators import take


@dataclass(frozen=True)
class Residues:
    """Tensors (F, n) of residues."""

    field: PrimeField
    device: torch.device

    def constant(self, values: Tensor) -> Tensor:
        return self.field.image(values).to(self.device)

    def take(self, x: Tensor, index: Tensor) -> Tensor:
        return take(x, index)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        samples = max(part.shape[1] for part in parts)
        return torch.cat([part.expand(-1, samples) for part in parts])

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.field.reduce_(x + y)

    def negate(self, x: Tensor) -> Tensor:
        return -x

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return self.field.mul(x, y)

    def divide(self, x: Tensor, odd: Tensor) -> Tensor:
        return self.field.mul(x, self.field.inverse(odd)[:, None])

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * mask

    def sum_windows(self, x: Tensor, count: int) -> Tensor:
        return self.field.reduce_(x.unflatten(0, (count, -1)).sum(dim=0))

    def pick(self, x: Tensor, count: int, code: Tensor) -> Tensor:
        windows = x.unflatten(0, (count, -1)).expand(-1, -1, code.shape[1])
        return windows.gather(0, code.long()[None])[0]

    def product(self, w: Tensor, x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
        groups, outputs, inner, positions = shape
        z = self.field.matmul(w.reshape(groups, outputs, inner), x.reshape(groups, inner, -1))
        return z.reshape(groups * outputs * positions, -1)

    def sign(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise TypeError("residues have no sign")
