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

import numpy as np
import torch
from torch import Tensor

from fdimlib.affine import PART, Affine
from fdimlib.decisions import Decisions
from fdimlib.finite_field import PrimeField
from fdimlib.linearised import AffineShare, Linearised, Share
from fdimlib.program import Program

PANEL = 4096  # rows, at most
AT_ONCE = 2**26  # numbers held for the derivatives of a panel, about
STRIP = 512  # rows of a product of which only the lower triangle is wanted


@dataclass(frozen=True)
class Plan:
    """How many samples are worked on together, by the memory that a row takes."""

    samples: int
    per_sample: int  # numbers held for a sample

    @classmethod
    def of(cls, program: Program, n: int) -> "Plan":
        per_row = 4 * program.largest
        per_sample = program.total + per_row * (program.outputs + 1)
        samples = min(AT_ONCE // per_sample, PANEL // max(program.outputs, 1), n)
        return cls(max(samples, 1), per_sample)

    def bytes(self, program: Program, n: int, bound: int) -> int:
        """Of a panel, of derivatives for it and as many pivots, and of what is held for a moment.
        """
        rows = self.samples * program.outputs
        tied = sum(p.numel() for number, p in enumerate(program.tensors)
                   if number not in program.alone)
        moment = 8 * PART + 2 * rows * tied
        return 8 * (2 * self.samples * self.per_sample + rows * (rows + bound) + moment)


class ProgramRows:
    """See the page of this module.

    Args:
        theta: residues of the parameters by their number, (F, 1).
        x: the sample, residues (n, F).
        decisions: at all samples.
        generator: of D.
    """

    def __init__(self, program: Program, theta: Mapping[int, Tensor], x: Tensor,
                 decisions: Decisions, field: PrimeField, generator: np.random.Generator):
        self.program, self.field, self.theta, self.x = program, field, theta, x
        self.decisions = decisions
        self.outputs = program.outputs
        self.rows = len(x) * self.outputs
        self.samples = Plan.of(program, len(x)).samples
        self.d = field.random(program.parameters, generator=generator, device=x.device)
        self.by_output = self._by_output()
        self.panel: _Panel | None = None
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
        samples = samples.to(self.x.device)
        codes = {place: code[:, samples] for place, code in self.decisions.codes.items()}
        return Linearised(self.program, self.field, self.theta,
                          self.x[samples].T.contiguous(), codes)

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
        k = self.x.new_zeros(len(a), len(b))
        add = _Symmetric(self.field, k) if torch.equal(a, b) else _Rectangle(self.field, k)
        for share in self._linearised(samples).pull(g):
            if not isinstance(share, AffineShare):
                rows = share.g.permute(1, 2, 0).flatten(0, 1)
                add.explicit(rows, self.d[share.columns], at_a, at_b)
            elif share.affine.by_positions(self.outputs):
                u, v = self.factors[share.place]
                for of_rows, of_samples in share.affine.pairs(self.field, share.g, share.x, u, v,
                                                              at_a, at_b):
                    add.product(of_rows, of_samples, at_a // self.outputs, at_b // self.outputs)
            else:
                for columns, part in share.affine.explicit(self.field, share.g, share.x):
                    add.explicit(part.flatten(0, 1), self.d[share.columns[columns]], at_a, at_b)
        return add.done()

    def _among(self, rows: Tensor, samples: Tensor) -> Tensor:
        """Rows, as places among those of some samples."""
        sample = torch.searchsorted(samples, rows // self.outputs)
        return sample * self.outputs + rows % self.outputs


class _Rectangle:
    """K of some rows with others, summed up."""

    def __init__(self, field: PrimeField, k: Tensor):
        self.field, self.k = field, k

    def explicit(self, rows: Tensor, d: Tensor, a: Tensor, b: Tensor) -> None:
        """Add J_a D J_bᵀ on some columns, of which these are all rows."""
        self._subtract(self.field.mul(rows[a], -d), rows[b])

    def _subtract(self, left: Tensor, right: Tensor) -> None:
        self.field.subtract_product_(self.k, left, right.T)

    def product(self, of_rows: Tensor, of_samples: Tensor, a: Tensor, b: Tensor) -> None:
        """Add a product, entry by entry, of what belongs to rows and to samples."""
        self.field.reduce_(self.k.addcmul_(of_rows, of_samples[a][:, b]))

    def done(self) -> Tensor:
        return self.k


class _Symmetric(_Rectangle):
    """K of some rows with each other: of explicit rows, the products below the diagonal do."""

    def __init__(self, field: PrimeField, k: Tensor):
        super().__init__(field, k)
        self.lower = torch.zeros_like(k)

    def _subtract(self, left: Tensor, right: Tensor) -> None:
        for start in range(0, len(left), STRIP):
            part = slice(start, start + STRIP)
            self.field.subtract_product_(self.lower[start:, part], left[start:], right[part].T)

    def done(self) -> Tensor:
        below = self.lower.tril(-1)
        return self.field.reduce_(self.k + below + below.T + self.lower.diag().diag())


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
        self.k = torch.cat([self.k.to(k.device), k.float()], dim=1)

    def has(self, rows: Tensor) -> bool:
        return bool((self.place[rows] >= 0).all())

    def missing(self, rows: Tensor) -> Tensor:
        return rows[self.column[rows] < 0].sort().values

    def entries(self, a: Tensor, b: Tensor) -> Tensor:
        return self.k[self.place[a]][:, self.column[b]].double()
