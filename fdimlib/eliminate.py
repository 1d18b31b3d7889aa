"""The rank of a matrix J that is never formed, from the symmetric matrix K = J D Jᵀ, modulo a prime.

Why K. Over the reals a positive diagonal D makes J D Jᵀ a Gram matrix, so rank K = rank J; hence some minor of K is a
non-zero polynomial in what D is drawn from, and unless p happens to divide all its coefficients, random residues keep the
rank but for a probability of degree / p (Schwartz, Zippel; measured losses are near 1/p). A loss would not pass unseen:
for any D, rank K ≤ rank J, and the checks below speak of J. For a network, entries of K cost far less than rows of J.

How. Rows come in blocks. Each block is eliminated by the rows already kept, the *pivots*, of which K = L Δ Lᵀ is held (L unit
lower triangular, Δ diagonal), then within itself. Dependent rows are dropped at once, so memory is O(r²), and time
O(rows·r²), in matrix products. It stops when r meets a known bound. Rows that add nothing are recognised sooner: a random
direction w that all pivots send to 0 is sent to 0 by every row that they span, and by any other with probability 1/p only. So
of a sample's rows as many are eliminated first as samples have lately yielded, others only if w asks for it; all rows ahead
are looked at once yields fall. Time is then nearer to O(r³).

Why it can be trusted. Two random columns J z are eliminated along with K.
1. A row left with remainder zero there satisfies J_i z = C_i J_pivots z, with the coefficients C_i that L encodes: if C_i were
   wrong in any way, a random z would show it except with probability 1/p (Freivalds' argument). So a *rejected* row is
   in the span of the pivots. A row of zero diagonal whose remainder is *not* zero is independent of the pivots and merely
   isotropic for D; it is kept aside and tried again after others.
2. At the end K_pivots (L Δ Lᵀ)⁻¹ v = v is checked for random v, with K_pivots applied as J (D (Jᵀ ·)), a route that shares
   nothing with the elimination. So K_pivots is invertible, and the pivots are independent: a proof that rank J ≥ r, over
   the rationals as well: the entries of J are fractions with powers of two below, units modulo p.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fdimlib.finite_field import PrimeField

CHECKS = 2  # random columns; a wrong row passes all of them with probability p^-2, about 6e-14
BLOCK = 256  # rows at a time; the result does not depend on it
LEAST = 64  # rows at a time where few are independent
LEAF = 32  # rows eliminated one by one
LOOK = 0.8  # look ahead when samples yield less than this share of what they did when looking last was in vain
AHEAD = 2**14  # rows looked at together when looking ahead


class RowSource(Protocol):
    """What elimination asks of the rows of J. A handle stands for a few rows, a direction for k vectors of parameters."""

    rows: int
    outputs: int  # consecutive rows that belong to one sample

    def take(self, rows: Tensor): """A handle for these rows."""
    def gram(self, a, b) -> Tensor: """K = J_a D J_bᵀ, residues of shape (|a|, |b|)."""
    def directions(self, count: int): """`count` random directions z."""
    def push(self, handle, z) -> Tensor: """J z for these rows, shape (|rows|, count)."""
    def pull(self, handle, s: Tensor): """The directions D Jᵀ s, s of shape (|rows|, count)."""


@dataclass
class Tile:
    """Up to BLOCK pivots: rows of L left of the diagonal (float32), the inverse of L on it, 1/Δ, remainders of J z."""

    rows: Tensor
    handle: object
    left: Tensor
    inverse: Tensor
    inverse_delta: Tensor
    remainder: Tensor


@dataclass(frozen=True)
class Elimination:
    """Independent rows, and whether both checks of the module docstring held for every row that was needed."""

    pivots: Tensor
    verified: bool

    @property
    def rank(self) -> int:
        return len(self.pivots)


def eliminate(source: RowSource, field: PrimeField, *, bound: int, progress: bool = False) -> Elimination:
    """Find a maximal independent set of the rows of J, or one of `bound` rows, whichever is met first."""
    return _Eliminator(source, field, bound).run(progress)


class _Eliminator:
    def __init__(self, source: RowSource, field: PrimeField, bound: int):
        self.source, self.field, self.bound = source, field, bound
        self.tiles: list[Tile] = []
        self.rank = 0
        self.z = source.directions(CHECKS)
        self.last = None  # rows of the samples that last raised the rank, if not taken in order, and the state before them

    def run(self, progress: bool) -> Elimination:
        waiting = torch.arange(self.source.rows)
        with tqdm(total=self.source.rows, unit="row", desc="exact rank", delay=2, disable=not progress) as bar:
            while len(waiting) and self.rank < self.bound:
                before, waiting = self.rank, self.pass_over(waiting, bar)
                if self.rank == before:
                    break
        settled = self.rank >= self.bound or not len(waiting)
        self.use_no_later_sample_than_needed()
        pivots = torch.cat([torch.arange(0), *(tile.rows for tile in self.tiles)])
        return Elimination(pivots, settled and self.pivots_are_independent())

    def pass_over(self, rows: Tensor, bar: tqdm) -> Tensor:
        """Eliminate all rows, some samples at a time, or up to the bound; return those to be tried again."""
        rows, outputs = rows.sort().values, self.source.outputs
        again, size, each, usual = [rows[:0]], BLOCK, outputs, outputs
        while len(rows) and self.rank < self.bound:
            before, state, ahead, each = self.rank, (list(self.tiles), self.rank), len(rows), min(each, size)
            taken, samples = _whole_samples(rows, outputs, each, size)
            some, rows = rows[:taken], rows[taken:]
            again.append(self.eliminate_samples(some, each, size))
            gain = (self.rank - before) / samples
            if gain:
                self.last = (state, some) if each < outputs and samples > 1 else None
            each = outputs if self.rank - before == taken else max(1, round(gain))
            size = max(size // 2, LEAST) if gain < 1 / 4 else min(2 * size, BLOCK) if gain > 1 / 2 else size
            if gain < LOOK * usual and len(rows) and self.rank < self.bound:
                waiting, rows = len(rows), rows[self.unexplained(rows)]
                usual = gain if len(rows) > LOOK * waiting else outputs
            bar.update(ahead - len(rows))
            bar.set_postfix(rank=self.rank, refresh=False)
        return torch.cat(again)

    def eliminate_samples(self, rows: Tensor, each: int, size: int) -> Tensor:
        """Eliminate `each` rows of every sample, then those that these leave unexplained; return those to be tried again."""
        sample = rows // self.source.outputs
        first = torch.arange(len(rows)) - torch.searchsorted(sample, sample) < each
        again, rows = [self.eliminate_block(rows[first])], rows[~first]
        while len(rows) and self.rank < self.bound and len(rows := rows[self.unexplained(rows)]):
            again.append(self.eliminate_block(rows[:size]))
            rows = rows[size:]
        return torch.cat(again)

    def use_no_later_sample_than_needed(self) -> None:
        """Choose the last pivots anew, by bisection: samples before `last` were exhausted in order, those within were not."""
        if self.last is None:
            return
        found = list(self.tiles), self.rank
        (self.tiles, self.rank), rows = self.last
        while len(rows):
            samples = (rows // self.source.outputs).unique()
            early = rows // self.source.outputs <= samples[(len(samples) - 1) // 2]
            state = list(self.tiles), self.rank
            self.eliminate_samples(rows[early], 1, BLOCK)
            if self.rank < found[1]:
                rows = rows[~early]
            elif len(samples) > 1:
                (self.tiles, self.rank), rows = state, rows[early]
            else:
                return
        self.tiles, self.rank = found  # an isotropic row came in between: any pivots will do

    def unexplained(self, rows: Tensor) -> Tensor:
        """Which rows J_i have J_i w ≠ 0 for w = z − D J_pivotsᵀ K_pivots⁻¹ J_pivots z, which all pivots send to 0."""
        if not self.tiles:
            return torch.ones(len(rows), dtype=torch.bool)
        source, pivots = self.source, self.all_pivots()
        s = self.solve_transposed(torch.cat([tile.remainder for tile in self.tiles]))
        direction, found = source.pull(pivots, s), []
        for part in rows.split(AHEAD):
            handle = source.take(part)
            w = source.push(handle, self.z) - source.push(handle, direction)
            found.append((self.field.reduce_(w) != 0).any(dim=1).cpu())
        return torch.cat(found)

    def eliminate_block(self, rows: Tensor) -> Tensor:
        """Add the independent rows of a block to the pivots; return those that the check says cannot be dropped yet."""
        handle = self.source.take(rows)
        remainder = self.source.push(handle, self.z)
        x, left = self.eliminate_by_pivots(lambda tile: self.source.gram(handle, tile.handle), remainder)
        schur = self.field.subtract_product_(self.source.gram(handle, handle), x, left.T)
        kept, inverse, inverse_delta = _eliminate_within(schur, remainder, self.field)
        kept = kept[: self.bound - self.rank]
        if count := len(kept):
            self.add(Tile(rows[kept], self.source.take(rows[kept]), left[kept].float(), inverse[:count, :count],
                          inverse_delta[:count], remainder[kept]))
        unexplained = (remainder != 0).any(dim=1).cpu()
        unexplained[kept] = False
        return rows[unexplained]

    def eliminate_by_pivots(self, k_with, remainder: Tensor) -> tuple[Tensor, Tensor]:
        """The new rows of X = L Δ and of L, solved from X Lᵀ = K[new, pivots] tile by tile; updates `remainder`.

        Args:
            k_with: the function that gives K[new, pivots of a tile].
        """
        field = self.field
        x = remainder.new_empty(len(remainder), self.rank)
        left = torch.empty_like(x)
        for tile, part in self.columns():
            k = field.subtract_product_(k_with(tile), x[:, : part.start], tile.left.T)
            x[:, part] = field.matmul(k, tile.inverse.T)
            left[:, part] = field.mul(x[:, part], tile.inverse_delta)
            field.subtract_product_(remainder, left[:, part], tile.remainder)
        return x, left

    def columns(self):
        """Each tile with the columns of L that its pivots take."""
        start = 0
        for tile in self.tiles:
            stop = start + len(tile.rows)
            yield tile, slice(start, stop)
            start = stop

    def add(self, new: Tile) -> None:
        """Append a tile, or fill up the last one with it: many thin tiles would make thin, slow products."""
        self.rank += len(new.rows)
        last = self.tiles[-1] if self.tiles else None
        if last is None or len(last.rows) + len(new.rows) > BLOCK:
            self.tiles.append(new)
            return
        width = last.left.shape[1]
        rows = torch.cat([last.rows, new.rows])
        self.tiles[-1] = Tile(
            rows, self.source.take(rows), torch.cat([last.left, new.left[:, :width]]),
            _join(last.inverse, new.left[:, width:].double(), new.inverse, self.field),
            torch.cat([last.inverse_delta, new.inverse_delta]), torch.cat([last.remainder, new.remainder]),
        )

    def all_pivots(self):
        """Their handle."""
        return self.source.take(torch.cat([tile.rows for tile in self.tiles]))

    def solve_transposed(self, y: Tensor) -> Tensor:
        """(Δ Lᵀ)⁻¹ y."""
        field = self.field
        s = field.mul(y, torch.cat([tile.inverse_delta for tile in self.tiles])[:, None])
        for tile, part in reversed(list(self.columns())):
            s[part] = field.matmul(tile.inverse.T, s[part])
            field.subtract_product_(s[: part.start], tile.left.T, s[part])
        return s

    def pivots_are_independent(self) -> bool:
        """Check K_pivots s = v for s = (L Δ Lᵀ)⁻¹ v and v uniform: one in the image of J would hide a singular K."""
        if not self.tiles:
            return True
        field, source, pivots = self.field, self.source, self.all_pivots()
        device, generator = self.tiles[0].inverse.device, torch.Generator().manual_seed(self.rank)
        v = field.random(self.rank, CHECKS, generator=generator, device=device)
        s = v.clone()
        for tile, part in self.columns():
            field.subtract_product_(s[part], tile.left, s[: part.start])
            s[part] = field.matmul(tile.inverse, s[part])
        again = source.push(pivots, source.pull(pivots, self.solve_transposed(s)))
        return not field.reduce_(again - v).any()


def _eliminate_within(schur: Tensor, remainder: Tensor, field: PrimeField) -> tuple[Tensor, Tensor, Tensor]:
    """Pivots of a small symmetric matrix, halves first; (indices, inverse of their L, 1/Δ). Overwrites both arguments."""
    if len(schur) <= LEAF:
        return _eliminate_leaf(schur, remainder, field)
    half = len(schur) // 2
    top, inverse, inverse_delta = _eliminate_within(schur[:half, :half], remainder[:half], field)
    x = field.matmul(schur[half:, top], inverse.T)
    left = field.mul(x, inverse_delta)
    field.subtract_product_(schur[half:, half:], x, left.T)
    field.subtract_product_(remainder[half:], left, remainder[top])
    low, low_inverse, low_inverse_delta = _eliminate_within(schur[half:, half:], remainder[half:], field)
    return (torch.cat([top, low + half]), _join(inverse, left[low], low_inverse, field),
            torch.cat([inverse_delta, low_inverse_delta]))


def _eliminate_leaf(schur: Tensor, remainder: Tensor, field: PrimeField) -> tuple[Tensor, Tensor, Tensor]:
    """Row by row, on the CPU: thousands of tiny steps. Carrying the identity along gives the inverse of L."""
    n, k = len(schur), remainder.shape[1]
    work = torch.cat([schur, remainder, torch.eye(n).to(schur)], dim=1).cpu().numpy()
    kept, inverse_delta = [], []

    def reduced(a):
        return a - field.p * np.rint(a / field.p)

    for i in range(n):
        if work[i, i] == 0:
            continue
        kept.append(i)
        inverse_delta.append(pow(int(work[i, i]), -1, field.p))
        coefficients = reduced(work[i + 1 :, i] * reduced(inverse_delta[-1]))
        work[i + 1 :] = reduced(work[i + 1 :] - coefficients[:, None] * work[i])
    done = torch.from_numpy(work).to(schur)
    remainder.copy_(done[:, n : n + k])
    kept = torch.tensor(kept, dtype=torch.long)
    return kept, done[:, n + k :][kept][:, kept], field.lift(torch.tensor(inverse_delta, dtype=torch.long), schur.device)


def _join(inverse: Tensor, corner: Tensor, low_inverse: Tensor, field: PrimeField) -> Tensor:
    """The inverse of [[A, 0], [C, B]] from those of A and B and from C."""
    low_left = -field.matmul(field.matmul(low_inverse, corner), inverse)
    return torch.cat([torch.cat([inverse, inverse.new_zeros(len(inverse), len(low_inverse))], dim=1),
                      torch.cat([low_left, low_inverse], dim=1)])


def _whole_samples(rows: Tensor, outputs: int, each: int, size: int) -> tuple[int, int]:
    """How many rows to take, and of how many samples, for `each` rows of every sample to be `size` at most."""
    if each == outputs:  # all in order: the last sample may be cut, for a block of a size that matrix products like
        return min(size, len(rows)), len(torch.unique_consecutive(rows[:size] // outputs))
    counts = torch.unique_consecutive(rows[: size * outputs] // outputs, return_counts=True)[1]
    samples = max(1, int((counts.clamp(max=each).cumsum(0) <= size).sum()))
    return int(counts[:samples].sum()), samples
