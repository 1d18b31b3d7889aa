"""The two checks of the exact rank, alone, with what they promise. (Letters: see `rows`.)

Elimination says: these r rows of J are independent modulo p, and all others depend on them.

*Proved*, as far as the machine computes without fault: rank J ≥ r, over the rationals too. The
pivots, the entries of Δ, are non-zero in exact arithmetic, so K_pivots = J_pivots D J_pivotsᵀ has
a determinant ≠ 0 modulo p, so some minor of J_pivots is ≠ 0 modulo p (Cauchy, Binet). Entries of J
are fractions with powers of two below, units modulo p: a minor that is 0 over the rationals is 0
modulo p. D may be any: it can hide independent rows, never make some up.

*Checked at random*, row by row: that the others depend on the pivots (`RowTest`). A row passes
when its residual J_i z − C_i J_pivots z is 0 for CHECKS random columns z, with the coefficients C_i
that L encodes (Freivalds 1977). If J_i ≠ C_i J_pivots, whatever C_i is, one column gives 0 with
probability at most 1/(p − 1): given its other entries, at most one value of an entry that counts
does. So an *independent* row is rejected with probability at most (p − 1)^-CHECKS, below
2.3 · 10⁻¹³, and any row of a run with at most the number of tests times that: `error_bound`. (What
is tested depends on earlier answers; but up to the first wrong answer these are what they should
be, and do not depend on z. So the sum over the tests of a run without wrong answers is a bound.)
No row needs this check when r is a proved upper bound: then nothing can be missing.

*Guarded against*: faulty arithmetic, that is, a defect of hardware, of a library, or of this
program (`pivots_are_independent`). K_pivots s = y for random y, with K_pivots applied as
J (D (Jᵀ ·)), goes another way than the elimination that gave s: the same g, h, D and arithmetic,
other products. If K_pivots were singular, y would be outside its image but for a probability of
1/(p − 1) a column at most. Monte Carlo, too: nothing is
proved by it that was not before, what was proved is confirmed by another route.

*What remains*: the rank modulo p can be less than over the rationals, never more: if p divides the
numerator of every minor that gives the rank. p is drawn after the input is fixed (`draws`); more
primes (`repeats`) make this as improbable as you like.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdimlib.factor import Factor
from fdimlib.finite_field import PrimeField
from fdimlib.rows import RowSource

CHECKS = 2  # random columns in either check
AHEAD = 2**14  # rows looked at together when looking ahead


class RowTest:
    """Which rows depend on the pivots; counts the tests made."""

    def __init__(self, source: RowSource, field: PrimeField, generator: np.random.Generator):
        self.source, self.field = source, field
        self.z = source.directions(CHECKS, generator)
        self.made = 0

    def error_bound(self) -> float:
        """Of the probability that any of the tests made passed an independent row."""
        return self.made * float(self.field.p - 1) ** -CHECKS

    def probe(self, handle: Any) -> Tensor:
        """J z for these rows: their residual as long as there are no pivots."""
        return self.source.jvp(handle, self.z)

    def fails(self, residual: Tensor, pivots: Tensor | None = None) -> Tensor:
        """Which rows, by their residual, do not depend on the pivots; bool, on the CPU.

        Args:
            pivots: rows that need no test, being pivots themselves; they do not fail.
        """
        failed = (residual != 0).any(dim=1).cpu()
        self.made += len(residual)
        if pivots is not None:
            failed[pivots] = False
            self.made -= len(pivots)
        return failed

    def fails_ahead(self, rows: Tensor, factor: Factor) -> Tensor:
        """The same for rows that have not been eliminated by the pivots, at the cost of J z.

        Their residual is J_i w with w = z − D J_pivotsᵀ K_pivots⁻¹ J_pivots z.
        """
        if not factor.tiles:
            return torch.ones(len(rows), dtype=torch.bool)
        source = self.source
        seen = source.weighted_vjp(source.select(factor.rows), factor.solve_upper(factor.probe))
        found = []
        for part in rows.split(AHEAD):
            handle = source.select(part)
            residual = source.jvp(handle, self.z) - source.jvp(handle, seen)
            found.append(self.fails(self.field.reduce_(residual)))
        return torch.cat(found)


def pivots_are_independent(source: RowSource, factor: Factor,
                           generator: np.random.Generator) -> bool:
    """Whether K_pivots s = y for s = (L Δ Lᵀ)⁻¹ y and random y."""
    if not factor.tiles:
        return True
    field, pivots = factor.field, source.select(factor.rows)
    device = factor.tiles[0].inverse.device
    y = field.random(factor.rank, CHECKS, generator=generator, device=device)
    s = factor.solve_upper(factor.solve_lower(y))
    found = source.jvp(pivots, source.weighted_vjp(pivots, s))
    return not field.reduce_(found - y).any()
