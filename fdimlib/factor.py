"""The factor L Δ Lᵀ of K_pivots in tiles, and what is solved with it. (Letters: see `rows`.)

L grows by rows from the top. Left of a tile's diagonal it is kept as it is, in float32, which
holds a residue; on the diagonal its inverse is kept, so that every solve is a matrix product:

         ┌──────┐
    L =  │ L_1  │             a tile holds   left       rows of L, (pivots, pivots before them)
         ├──────┼──────┐                     inverse    L_i⁻¹
         │ left │ L_2  │                     probe      its rows of L⁻¹ J_pivots z
         ├──────┴──────┼──────┐
         │ left        │ L_3  │
         └─────────────┴──────┘

Memory is O(r²). Nothing here changes a factor in place, so an earlier state is a kept reference.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdimlib.finite_field import PrimeField

TILE = 256  # pivots kept together; the rank does not depend on it
LEAF = 32  # rows eliminated one by one


@dataclass(frozen=True)
class Tile:
    """Up to TILE pivots: which rows of J they are, their handle, and their part of the factor."""

    rows: Tensor
    handle: Any
    left: Tensor
    inverse: Tensor
    inverse_delta: Tensor
    probe: Tensor

    def joined(self, new: "Tile", handle: Any, field: PrimeField) -> "Tile":
        """This tile and one that comes right below it, as one."""
        width = self.left.shape[1]
        corner = new.left[:, width:].double()
        return Tile(
            rows=torch.cat([self.rows, new.rows]),
            handle=handle,
            left=torch.cat([self.left, new.left[:, :width]]),
            inverse=_joined_inverse(self.inverse, corner, new.inverse, field),
            inverse_delta=torch.cat([self.inverse_delta, new.inverse_delta]),
            probe=torch.cat([self.probe, new.probe]),
        )


@dataclass(frozen=True)
class Factor:
    """K_pivots = L Δ Lᵀ, as a list of tiles."""

    field: PrimeField
    tiles: tuple[Tile, ...] = ()

    @cached_property
    def rank(self) -> int:
        return sum(len(tile.rows) for tile in self.tiles)

    @property
    def rows(self) -> Tensor:
        """The pivots, as rows of J."""
        return torch.cat([torch.arange(0), *(tile.rows for tile in self.tiles)])

    @property
    def probe(self) -> Tensor:
        """L⁻¹ J_pivots z."""
        return torch.cat([tile.probe for tile in self.tiles])

    def extended(self, new: Tile, select: Callable[[Tensor], Any]) -> "Factor":
        """With a tile appended, or filled into the last one: many thin tiles multiply slowly.

        Args:
            select: gives the handle of some rows of J.
        """
        last = self.tiles[-1] if self.tiles else None
        if last is None or len(last.rows) + len(new.rows) > TILE:
            return Factor(self.field, (*self.tiles, new))
        handle = select(torch.cat([last.rows, new.rows]))
        return Factor(self.field, (*self.tiles[:-1], last.joined(new, handle, self.field)))

    def eliminate_(self, residual: Tensor,
                   gram_with: Callable[[Any], Tensor]) -> tuple[Tensor, Tensor]:
        """X and L_new = X Δ⁻¹ of new rows, from X Lᵀ = K[new, pivots], tile by tile.

        Args:
            residual: J_new z, in place made J_new z − C J_pivots z, C = L_new L⁻¹.
            gram_with: gives K[new, ·] for the handle of a tile.
        """
        field = self.field
        x = residual.new_empty(len(residual), self.rank)
        left = torch.empty_like(x)
        for tile, part in self._columns():
            k = gram_with(tile.handle)
            k = field.subtract_product_(k, x[:, : part.start], tile.left.T)
            x[:, part] = field.matmul(k, tile.inverse.T)
            left[:, part] = field.mul(x[:, part], tile.inverse_delta)
            field.subtract_product_(residual, left[:, part], tile.probe)
        return x, left

    def solve_lower(self, y: Tensor) -> Tensor:
        """L⁻¹ y."""
        s = y.clone()
        for tile, part in self._columns():
            self.field.subtract_product_(s[part], tile.left, s[: part.start])
            s[part] = self.field.matmul(tile.inverse, s[part])
        return s

    def solve_upper(self, y: Tensor) -> Tensor:
        """(Δ Lᵀ)⁻¹ y."""
        inverse_delta = torch.cat([tile.inverse_delta for tile in self.tiles])
        s = self.field.mul(y, inverse_delta[:, None])
        for tile, part in reversed(list(self._columns())):
            s[part] = self.field.matmul(tile.inverse.T, s[part])
            self.field.subtract_product_(s[: part.start], tile.left.T, s[part])
        return s

    def _columns(self) -> Iterator[tuple[Tile, slice]]:
        """Each tile, and the columns of L that belong to its pivots."""
        start = 0
        for tile in self.tiles:
            stop = start + len(tile.rows)
            yield tile, slice(start, stop)
            start = stop


class DenseFactor(NamedTuple):
    """Of a small symmetric matrix: which rows are pivots, the inverse of their L, and 1/Δ."""

    pivots: Tensor
    inverse: Tensor
    inverse_delta: Tensor


def factor_dense_(schur: Tensor, residual: Tensor, field: PrimeField) -> DenseFactor:
    """Pivots of a small symmetric matrix, halves first. Overwrites both arguments.

    A row of zero diagonal is no pivot, even where the rest of it is not zero.

    Args:
        residual: its rows are eliminated along with those of the matrix.

    >>> matrix = torch.tensor([[2.0, 2, 0], [2, 2, 0], [0, 0, 3]])
    >>> factor_dense_(matrix, torch.zeros(3, 1), PrimeField(7)).pivots
    tensor([0, 2])
    """
    if len(schur) <= LEAF:
        return _factor_leaf_(schur, residual, field)
    half = len(schur) // 2
    top = factor_dense_(schur[:half, :half], residual[:half], field)
    x = field.matmul(schur[half:, top.pivots], top.inverse.T)
    left = field.mul(x, top.inverse_delta)
    field.subtract_product_(schur[half:, half:], x, left.T)
    field.subtract_product_(residual[half:], left, residual[top.pivots])
    low = factor_dense_(schur[half:, half:], residual[half:], field)
    return DenseFactor(
        pivots=torch.cat([top.pivots, low.pivots + half]),
        inverse=_joined_inverse(top.inverse, left[low.pivots], low.inverse, field),
        inverse_delta=torch.cat([top.inverse_delta, low.inverse_delta]),
    )


def _factor_leaf_(schur: Tensor, residual: Tensor, field: PrimeField) -> DenseFactor:
    """Row by row, on the CPU: thousands of tiny steps. Carrying 1 along gives the inverse of L."""
    n, k = len(schur), residual.shape[1]
    identity = torch.eye(n).to(schur)
    work = torch.cat([schur, residual, identity], dim=1).cpu().numpy()
    kept: list[int] = []
    inverses: list[int] = []

    def reduced(a: Any) -> Any:  # a number or an array
        return a - field.p * np.rint(a / field.p)

    for i in range(n):
        if work[i, i] == 0:
            continue
        kept.append(i)
        inverses.append(pow(int(work[i, i]), -1, field.p))
        coefficients = reduced(work[i + 1 :, i] * reduced(inverses[-1]))
        work[i + 1 :] = reduced(work[i + 1 :] - coefficients[:, None] * work[i])
    done = torch.from_numpy(work).to(schur)
    residual.copy_(done[:, n : n + k])
    pivots = torch.tensor(kept, dtype=torch.long)
    inverse_delta = torch.tensor(inverses, dtype=torch.long)
    inverse = done[:, n + k :][pivots][:, pivots]
    return DenseFactor(pivots, inverse, field.lift(inverse_delta, schur.device))


def _joined_inverse(inverse: Tensor, corner: Tensor, low_inverse: Tensor,
                    field: PrimeField) -> Tensor:
    """The inverse of [[A, 0], [C, B]] from those of A and B and from C."""
    low_left = -field.matmul(field.matmul(low_inverse, corner), inverse)
    above = inverse.new_zeros(len(inverse), len(low_inverse))
    return torch.cat([torch.cat([inverse, above], dim=1),
                      torch.cat([low_left, low_inverse], dim=1)])
