"""A row source for any program: K is summed up operator by operator, and J is never formed.

K = J D Jᵀ is a sum over parameters. What an affine operator with weights W (O, K) at T positions
adds, with D = u ⊗ v on W, is for two rows

    Σ_{t,t'} (Σ_o g[o,t] u[o] g'[o,t']) · (Σ_k x[k,t] v[k] x'[k,t']),

T² times O + K / N_L + 1 operations, since x belongs to the sample and serves its N_L rows; or, with
the explicit rows Σ_t g[o,t] x[k,t] of this weight alone, O·K operations. The fewer are taken: the
former for layers on vectors and short sequences, the latter for convolutions. (Letters: see
`rows`.)

Pulling derivatives back costs as much as a backward pass for every row, so it is done for many
rows together: the samples are cut into *panels* in order, and when a panel is reached, K of all
its rows with the pivots of earlier panels and with each other is computed at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from fdimlib.affine import PART, Affine
from fdimlib.decisions import Decisions
from fdimlib.finite_field import INNER, PrimeField
from fdimlib.linearised import AffineShare, Linearised, Share
from fdimlib.program import Program

PANEL = 10_000  # rows, at most
AT_ONCE = 2**28  # numbers held for the derivatives of a panel, about
STRIP = 512  # rows of K to which a product is added at once
UNREDUCED = 1000  # products of two residues that are summed before a reduction


@dataclass(frozen=True)
class Plan:
    """How many samples are worked on together, by the memory that they take."""

    samples: int
    per_sample: int  # numbers held for a sample

    @classmethod
    def of(cls, program: Program, n: int, bound: int) -> "Plan":
        outputs = max(program.outputs, 1)
        per_sample = program.total + 4 * program.largest * (outputs + 1)
        rows = min(PANEL, 2 * bound)
        return cls(max(1, min(AT_ONCE // per_sample, rows // outputs, n)), per_sample)

    def bytes(self, program: Program, n: int, bound: int) -> int:
        """Of a panel, of derivatives for it and its pivots, and of what is held for a moment."""
        rows = self.samples * program.outputs
        pivots = min(bound, max(0, n * program.outputs - rows))
        panels = 1 + (pivots > 0)
        tied = sum(p.numel() for number, p in enumerate(program.tensors)
                   if number not in program.alone)
        moment = 8 * PART + 2 * rows * tied
        return 8 * (panels * self.samples * self.per_sample + moment) + rows * (
            12 * rows + 4 * pivots)


class ProgramRows:
    """See the page of this module.

    Args:
        theta: residues of the parameters by their number, (F, 1).
        x: the sample, residues (n, F).
        decisions: at all samples.
        bound: of the rank, to choose how many rows to look at together.
        generator: of D.
    """

    def __init__(self, program: Program, theta: Mapping[int, Tensor], x: Tensor,
                 decisions: Decisions, bound: int, field: PrimeField,
                 generator: np.random.Generator):
        self.program, self.field, self.theta, self.x = program, field, theta, x
        self.decisions = decisions
        self.outputs = program.outputs
        self.rows = len(x) * self.outputs
        self.samples = Plan.of(program, len(x), bound).samples
        self.d = field.random(program.parameters, generator=generator, device=x.device)
        self.by_output = self._by_output()
        self.panel: _Panel | None = None
        self.last: tuple[Tensor, Linearised] | None = None
        self.factors: dict[int, tuple[Tensor, Tensor]] = {}
        for place, columns in program.own_weights.items():
            affine = program.operators[place]
            assert isinstance(affine, Affine)
            groups, outputs, inner, _ = affine.shape
            u, v = (field.random(groups, length, generator=generator, device=x.device)
                    for length in (outputs, inner))
            self.d[columns] = field.mul(u[:, :, None], v[:, None, :]).flatten()
            self.factors[place] = u, v

    def _by_output(self) -> Tensor:
        """The derivative of each row by the outputs, (N_L, rows of a sample)."""
        eye = torch.eye(self.program.entries, dtype=torch.float64, device=self.x.device)
        groups = self.program.groups
        if groups is None:
            return eye
        rows = [eye[group[:-1]] - eye[group[-1]] for group in groups.to(self.x.device)]
        return torch.cat(rows).T.contiguous()

    def select(self, rows: Tensor) -> Tensor:
        return rows.cpu()

    # Directions

    def directions(self, count: int, generator: np.random.Generator) -> Tensor:
        return self.field.random(self.program.parameters, count, generator=generator,
                                 device=self.x.device)

    def jvp(self, rows: Tensor, z: Tensor) -> Tensor:
        found = z.new_empty(len(rows), z.shape[1])
        for samples, places, of_samples in self._by_samples(rows):
            pushed = self._linearised(samples).push(z)  # (N_L, n, c)
            of_rows = self.field.matmul(self.by_output.T, pushed.flatten(1))
            of_rows = of_rows.reshape(self.outputs, len(samples), -1).transpose(0, 1).flatten(0, 1)
            found[places] = of_rows[of_samples]
        return found

    def weighted_vjp(self, rows: Tensor, s: Tensor) -> Tensor:
        z = s.new_zeros(self.program.parameters, s.shape[1])
        for samples, places, of_samples in self._by_samples(rows):
            of_rows = s.new_zeros(len(samples) * self.outputs, s.shape[1])
            of_rows[of_samples] = s[places]
            of_rows = of_rows.reshape(len(samples), self.outputs, -1).transpose(0, 1).flatten(1)
            g = self.field.matmul(self.by_output, of_rows)
            for share in self._linearised(samples).pull(g.reshape(-1, len(samples), s.shape[1])):
                z[share.columns] = self.field.reduce_(z[share.columns] + self._total(share))
        return self.field.mul(z, self.d[:, None])

    def _total(self, share: Share) -> Tensor:
        if isinstance(share, AffineShare):
            return share.affine.total(self.field, share.g, share.x)
        return self.field.reduce_(share.g.sum(dim=1))

    def _by_samples(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some samples, the places of their rows among these, and among all of the samples'."""
        samples, sample = torch.unique(rows // self.outputs, return_inverse=True)
        for start in range(0, len(samples), self.samples):
            some = samples[start : start + self.samples]
            places = ((sample >= start) & (sample < start + len(some))).nonzero()[:, 0]
            of_samples = (sample[places] - start) * self.outputs + rows[places] % self.outputs
            yield some, places.to(self.x.device), of_samples.to(self.x.device)

    def _linearised(self, samples: Tensor) -> Linearised:
        """The derivative at some samples; asked for twice in a row, it is made once."""
        if self.last is None or not torch.equal(self.last[0], samples):
            self.last = None
            of_samples = samples.to(self.x.device)
            codes = {place: code[:, of_samples] if self.program.batched[place] else code
                     for place, code in self.decisions.codes.items()}
            made = Linearised(self.program, self.field, self.theta,
                              self.x[of_samples].T.contiguous(), codes)
            self.last = samples, made
        return self.last[1]

    # K

    def expect(self, rows: Tensor, pivots: Tensor) -> None:
        """Compute K for the panel of these rows, unless it is there."""
        if self.panel is None or not self.panel.has(rows):
            own = self._panel_of(rows)
            self.panel = _Panel(own, self.rows)
            self.panel.append(own, self.block(own, own))
        missing = self.panel.missing(pivots)
        for some in missing.split(self.samples * self.outputs) if len(missing) else ():
            self.panel.append(some, self.block(self.panel.own, some))

    def _panel_of(self, rows: Tensor) -> Tensor:
        """All rows of the samples from the first on; or only these, where they are few among them.
        """
        first = int(rows.min()) // self.outputs * self.outputs
        own = torch.arange(first, min(first + self.samples * self.outputs, self.rows))
        span = int(rows.max()) + 1 - first
        return own if span <= len(own) and 4 * len(rows) >= span else rows.sort().values

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        panel = self.panel
        if panel is not None and panel.has(a) and not len(panel.missing(b)):
            return panel.entries(a, b).to(self.x.device)
        return self.block(a, b)

    def block(self, a: Tensor, b: Tensor) -> Tensor:
        """K[a, b], computed now."""
        samples = torch.unique(torch.cat([a, b]) // self.outputs)
        g = self.by_output[:, None, :].expand(-1, len(samples), -1)
        at_a, at_b = (self._among(rows, samples).to(self.x.device) for rows in (a, b))
        k = _Entries(self.field, self.x.new_zeros(len(a), len(b)), at_a, at_b, self.outputs)
        for share in self._linearised(samples).pull(g):
            if not isinstance(share, AffineShare):
                k.add_rows(share.g.permute(1, 2, 0).flatten(0, 1), self.d[share.columns])
            elif share.affine.by_positions(self.outputs):
                for pair in share.affine.pairs(self.field, share.g, share.x,
                                               *self.factors[share.place]):
                    k.add_product(*pair)
            else:
                for columns, rows in share.affine.explicit(self.field, share.g, share.x):
                    k.add_rows(rows.flatten(0, 1), self.d[share.columns[columns]])
        return k.done()

    def _among(self, rows: Tensor, samples: Tensor) -> Tensor:
        """Rows, as places among those of some samples."""
        sample = torch.searchsorted(samples, rows // self.outputs)
        return sample * self.outputs + rows % self.outputs


class _Entries:
    """K[a, b], summed up strip by strip; of K[a, a], strips up to the diagonal, then mirrored.

    Args:
        k: zeros, (|a|, |b|).
        a, b: rows, as places among those of some samples.
        outputs: consecutive rows that belong to one sample.
    """

    def __init__(self, field: PrimeField, k: Tensor, a: Tensor, b: Tensor, outputs: int):
        self.field, self.k, self.a, self.b = field, k, a, b
        self.sample_a, self.sample_b = a // outputs, b // outputs
        self.symmetric = torch.equal(a, b)
        self.whole = all(torch.equal(places, torch.arange(len(places), device=places.device))
                         for places in (a, b))
        self.unreduced = 0
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def _strips(self) -> Iterator[tuple[slice, slice]]:
        rows, columns = self.k.shape
        for start in range(0, rows, STRIP):
            stop = min(start + STRIP, rows)
            yield slice(start, stop), slice(0, stop if self.symmetric else columns)

    def add_rows(self, rows: Tensor, d: Tensor) -> None:
        """J_a D J_bᵀ on some columns, of which these are all rows.

        Few columns wait for others: adding up costs as much for one as for many.
        """
        left, right = (rows if len(places) == len(rows) and self.whole else rows[places]
                       for places in (self.a, self.b))
        self.waiting.append((self.field.mul(left, -d), right))
        if sum(left.shape[1] for left, _ in self.waiting) >= INNER // 2:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if not self.waiting:
            return
        if self.unreduced:
            self.field.reduce_(self.k)
            self.unreduced = 0
        left, right = (torch.cat(parts, dim=1) for parts in zip(*self.waiting))
        self.waiting = []
        for strip, columns in self._strips():
            self.field.subtract_product_(self.k[strip, columns], left[strip], right[columns].T)

    def add_product(self, left: Tensor, right: Tensor, of_left: Tensor, of_right: Tensor) -> None:
        """(left · right) ∘ (of_left · of_right), the former of all rows, the latter of samples."""
        self.unreduced += 1
        for strip, columns in self._strips():
            of_rows = self.field.matmul(left[self.a[strip]], right[:, self.b[columns]])
            first, last = self.sample_a[strip].min(), self.sample_a[strip].max() + 1
            of_samples = self.field.matmul(of_left[first:last], of_right)
            of_samples = of_samples[self.sample_a[strip] - first][:, self.sample_b[columns]]
            part = self.k[strip, columns].addcmul_(of_rows, of_samples)
            if self.unreduced == UNREDUCED:
                self.field.reduce_(part)
        self.unreduced %= UNREDUCED

    def done(self) -> Tensor:
        self._add_waiting()
        if self.symmetric:
            strips = [strip for strip, _ in self._strips()]
            for low, high in combinations(strips, 2):  # tile by tile: a transpose jumps in memory
                self.k[low, high] = self.k[high, low].T
        return self.field.reduce_(self.k)


class _Panel:
    """K of some rows with those that `column` has a place for, in float32, which holds residues."""

    def __init__(self, own: Tensor, rows: int):
        self.own = own
        self.place = torch.full((rows,), -1)
        self.place[own] = torch.arange(len(own))
        self.column = torch.full((rows,), -1)
        self.k = torch.empty(len(own), 0, dtype=torch.float32)

    def append(self, rows: Tensor, k: Tensor) -> None:
        self.column[rows] = torch.arange(self.k.shape[1], self.k.shape[1] + len(rows))
        self.k = torch.cat([self.k.to(k.device), k.float()], dim=1) if self.k.numel() else k.float()

    def has(self, rows: Tensor) -> bool:
        return bool((self.place[rows] >= 0).all())

    def missing(self, rows: Tensor) -> Tensor:
        return rows[self.column[rows] < 0].sort().values

    def entries(self, a: Tensor, b: Tensor) -> Tensor:
        rows, columns = self.place[a], self.column[b]
        return _selected(_selected(self.k, rows, 0), columns, 1).double()


def _selected(k: Tensor, places: Tensor, dim: int) -> Tensor:
    """Rows or columns; where they follow each other, without a copy."""
    first = int(places[0])
    if torch.equal(places, torch.arange(first, first + len(places))):
        return k.narrow(dim, first, len(places))
    return k.index_select(dim, places.to(k.device))
