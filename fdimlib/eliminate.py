"""The rank modulo p of a matrix J that is never formed, from the symmetric matrix K = J D Jᵀ.

Why K. For a network, entries of K cost far less than rows of J. Over the reals a positive diagonal
D makes J D Jᵀ a Gram matrix, so rank K = rank J; hence some minor of K is a non-zero polynomial in
what D is drawn from, and unless p happens to divide all its coefficients, random residues keep the
rank but for a probability of degree / (p − 1) (Schwartz, Zippel; measured: near 1/p). A loss
does not pass unseen: for any D, rank K ≤ rank J, and the checks of `certificate` speak of J.

How. Rows come in blocks. Each block is eliminated by the rows already kept, the *pivots*, of which
`factor` holds K_pivots = L Δ Lᵀ, then within itself. Dependent rows are dropped at once, so memory,
beside that of the source, is O(r²), and time O(rows · r²), in matrix products. It stops when r
meets a known bound. A row of zero diagonal that fails the row test is independent of the pivots so
far and merely isotropic for D; it is kept aside and tried again after others.

Which rows next. Rows that add nothing are recognised sooner, by the row test on rows ahead. So of
a sample's rows as many are eliminated first as samples have lately yielded, others only if the
test asks for it; all rows ahead are tested at once yields fall. Time is then nearer to O(r³).

The letters, and a picture of the blocks: `rows`. What is proved and what is checked: `certificate`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fdimlib.certificate import RowTest, pivots_are_independent
from fdimlib.factor import Factor, Tile, factor_dense_
from fdimlib.finite_field import PrimeField
from fdimlib.rows import RowSource

BLOCK = 256  # rows at a time; the rank does not depend on it
LEAST = 64  # rows at a time where few are independent
LOOK = 0.8  # look ahead when samples yield less than this share of what they did at a vain look


@dataclass(frozen=True)
class Elimination:
    """Independent rows, and what `certificate` says of them.

    Attributes:
        pivots: the rows, as places in J.
        verified: every other row passed the row test, or the bound is met; and the pivots' own
            check held.
        error_bound: of the probability that a row that passed is independent; 0 at the bound.
    """

    pivots: Tensor
    verified: bool
    error_bound: float

    @property
    def rank(self) -> int:
        return len(self.pivots)


def eliminate(source: RowSource, field: PrimeField, generator: np.random.Generator, *, bound: int,
              progress: bool = False) -> Elimination:
    """Find a maximal independent set of the rows of J, or one of `bound` rows if that is sooner.

    That the rows found are independent is sure, that they are a maximal set only if `verified`,
    and then but for `error_bound`.

    Args:
        generator: of the random choices of the two checks.
        bound: a proved upper bound of the rank; one that is too small is met, and believed.
    """
    return _Eliminator(source, field, generator, bound).run(progress)


@dataclass
class _Pace:
    """How many rows are eliminated at once, and when to look ahead; learns from what they yield."""

    outputs: int
    size: int  # rows at a time
    per_sample: int  # rows that are tried first of each sample
    usual: float  # independent rows a sample gave when looking ahead was last in vain

    def begin_block(self, rows: Tensor) -> int:
        """How many of these rows to take now: samples of which `per_sample` rows fill a block."""
        self.per_sample = min(self.per_sample, self.size)
        if self.in_order:  # the last sample may be cut: a block of a size that products like
            return min(self.size, len(rows))
        candidates = rows[: self.size * self.outputs] // self.outputs
        counts = torch.unique_consecutive(candidates, return_counts=True)[1]
        first = counts.clamp(max=self.per_sample).cumsum(0)
        samples = max(1, int((first <= self.size).sum()))
        return int(counts[:samples].sum())

    @property
    def in_order(self) -> bool:
        """Whether samples are tried with all their rows."""
        return self.per_sample == self.outputs

    def learn(self, gain: float, all_independent: bool) -> None:
        """Adapt to the number of independent rows that a sample of the last block gave."""
        self.per_sample = self.outputs if all_independent else max(1, round(gain))
        if gain < 1 / 4:
            self.size = max(self.size // 2, LEAST)
        elif gain > 1 / 2:
            self.size = min(2 * self.size, BLOCK)

    def looks_ahead(self, gain: float) -> bool:
        return gain < LOOK * self.usual

    def learn_from_looking(self, gain: float, share_left: float) -> None:
        """Looking was in vain when most rows are still there."""
        self.usual = gain if share_left > LOOK else self.outputs


@dataclass(frozen=True)
class _LastGain:
    """Rows of several samples that raised the rank when tried in no order; the factor before."""

    before: Factor
    rows: Tensor


class _Eliminator:
    def __init__(self, source: RowSource, field: PrimeField, generator: np.random.Generator,
                 bound: int):
        self.source, self.field = source, field
        self.generator, self.bound = generator, bound
        self.test = RowTest(source, field, generator)
        self.factor = Factor(field)
        self.last_gain: _LastGain | None = None

    @property
    def done(self) -> bool:
        return self.factor.rank >= self.bound

    def run(self, progress: bool) -> Elimination:
        waiting = torch.arange(self.source.rows)
        with tqdm(total=self.source.rows, unit="row", desc="exact rank", delay=2,
                  disable=not progress) as bar:
            while len(waiting) and not self.done:
                before = self.factor.rank
                waiting = self.pass_over(waiting, bar)
                if self.factor.rank == before:
                    break
        settled = self.done or not len(waiting)
        self.use_no_later_sample_than_needed()
        independent = pivots_are_independent(self.source, self.factor, self.generator)
        error_bound = 0.0 if self.done else self.test.error_bound()
        return Elimination(self.factor.rows, settled and independent, error_bound)

    def pass_over(self, rows: Tensor, bar: tqdm) -> Tensor:
        """Eliminate rows, some samples at a time; return those to be tried again."""
        outputs = self.source.outputs
        rows = rows.sort().values
        pace = _Pace(outputs, size=BLOCK, per_sample=outputs, usual=outputs)
        aside = [rows[:0]]
        while len(rows) and not self.done:
            ahead = len(rows)
            before = self.factor
            taken = pace.begin_block(rows)
            some, rows = rows[:taken], rows[taken:]
            aside.append(self.eliminate_samples(some, pace.per_sample, pace.size))
            samples = len(torch.unique_consecutive(some // outputs))
            raised = self.factor.rank - before.rank
            if raised:  # the last sample that matters is among these
                any_order = samples > 1 and not pace.in_order
                self.last_gain = _LastGain(before, some) if any_order else None
            gain = raised / samples
            pace.learn(gain, all_independent=raised == taken)
            if pace.looks_ahead(gain) and len(rows) and not self.done:
                waiting = len(rows)
                rows = rows[self.test.fails_ahead(rows, self.factor)]
                pace.learn_from_looking(gain, len(rows) / waiting)
            bar.update(ahead - len(rows))
            bar.set_postfix(rank=self.factor.rank, refresh=False)
        return torch.cat(aside)

    def eliminate_samples(self, rows: Tensor, per_sample: int, size: int) -> Tensor:
        """Eliminate `per_sample` rows of every sample, then what these leave unexplained.

        Returns: the rows kept aside.
        """
        sample = rows // self.source.outputs
        place_in_sample = torch.arange(len(rows)) - torch.searchsorted(sample, sample)
        first = place_in_sample < per_sample
        aside = [self.eliminate_block(rows[first])]
        rows = rows[~first]
        while len(rows) and not self.done:
            rows = rows[self.test.fails_ahead(rows, self.factor)]
            if len(rows):
                aside.append(self.eliminate_block(rows[:size]))
                rows = rows[size:]
        return torch.cat(aside)

    def eliminate_block(self, rows: Tensor) -> Tensor:
        """Add the independent rows of a block to the pivots; return those to be kept aside."""
        source, field = self.source, self.field
        handle = source.select(rows)
        source.expect(handle, self.factor.rows)
        residual = self.test.probe(handle)
        x, left = self.factor.eliminate_(residual, lambda pivots: source.gram(handle, pivots))
        schur = field.subtract_product_(source.gram(handle, handle), x, left.T)
        dense = factor_dense_(schur, residual, field)
        count = min(len(dense.pivots), self.bound - self.factor.rank)
        kept = dense.pivots[:count]
        if count:
            tile = Tile(
                rows=rows[kept],
                handle=source.select(rows[kept]),
                left=left[kept].float(),
                inverse=dense.inverse[:count, :count],
                inverse_delta=dense.inverse_delta[:count],
                probe=residual[kept],
            )
            self.factor = self.factor.extended(tile, source.select)
        return rows[self.test.fails(residual, pivots=kept)]

    def use_no_later_sample_than_needed(self) -> None:
        """Choose the last pivots anew, by bisection over the samples of the last gain.

        Samples before these were exhausted in order; among these, a late one may have given a
        pivot that an early one could have given.
        """
        if self.last_gain is None:
            return
        found = self.factor
        self.factor, rows = self.last_gain.before, self.last_gain.rows
        while len(rows):
            sample = rows // self.source.outputs
            samples = sample.unique()
            early = sample <= samples[(len(samples) - 1) // 2]
            before = self.factor
            self.eliminate_samples(rows[early], 1, BLOCK)
            if self.factor.rank < found.rank:
                rows = rows[~early]
            elif len(samples) > 1:
                self.factor, rows = before, rows[early]
            else:
                return
        self.factor = found  # an isotropic row came in between: any pivots will do
