"""The matrix J, as the elimination sees it: rows to select, products with them, entries of J D Jᵀ.

The letters of the engine, here and in `factor`, `certificate` and `eliminate`:

    J   Df_θ(X) modulo the prime p: a row for each (sample, output), a column for each parameter
    D   a random diagonal of non-zero residues, one for each parameter
    K   J D Jᵀ, symmetric: a row and a column for each row of J
    L, Δ   K of the pivots (the independent rows kept) is L Δ Lᵀ, L unit lower triangular and
        Δ diagonal
    C   coefficients of new rows, L_new L⁻¹: if they depend on the pivots, J_new = C J_pivots
    z   random directions in parameter space; J z are directional derivatives
    w   z less what the pivots see of it: J w = 0 on the pivots, hence on all rows that they span
    g, h   a row of J on one layer is g ⊗ [h, 1]: g the derivative of the output by the layer's
        result, h what goes into the layer
    u, v, c   D on one layer is u ⊗ [v, c], c belonging to the biases
    y, s   the last check: a random right-hand side y, and s with K_pivots s = y

and the blocks, while some rows (new) are eliminated by the pivots found so far:

    J        parameters             K        pivots          new
              ┌─────────┐                     ┌──────────────┬────────────────┐
    pivots    │ J_piv   │           pivots    │ L Δ Lᵀ       │                │
              ├─────────┤                     ├──────────────┼────────────────┤
    new       │ J_new   │           new       │ X Lᵀ         │ X L_newᵀ + S   │
              ├─────────┤                     └──────────────┴────────────────┘
    waiting   │   ⋮     │
              └─────────┘

X = L_new Δ is solved from K[new, pivots], which leaves the Schur complement S; S is eliminated
within itself, and its pivots join the others.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fdimlib.finite_field import PrimeField


class RowSource(Protocol):
    """What elimination asks of J. A handle stands for some rows, a direction for k vectors z."""

    rows: int
    outputs: int  # consecutive rows that belong to one sample

    def select(self, rows: Tensor) -> Any:
        """A handle for these rows."""

    def expect(self, handle: Any, pivots: Tensor) -> None:
        """Told before K of these rows with the pivots, as rows, and with each other is asked for:
        time to compute together what is cheaper together."""

    def gram(self, a: Any, b: Any) -> Tensor:
        """K[a, b] = J_a D J_bᵀ of two handles, residues of shape (|a|, |b|)."""

    def directions(self, count: int, generator: np.random.Generator) -> Any:
        """`count` random directions z, every entry a uniform non-zero residue."""

    def jvp(self, handle: Any, z: Any) -> Tensor:
        """J z for these rows, residues of shape (|rows|, count)."""

    def weighted_vjp(self, handle: Any, s: Tensor) -> Any:
        """The directions D Jᵀ s over these rows, for s of shape (|rows|, count)."""


class ExplicitRows:
    """A row source that simply holds J and the diagonal of D: slow, and obviously right.

    Args:
        j: residues, (rows, P).
        d: non-zero residues, (P,).
        outputs: consecutive rows that belong to one sample.

    >>> from fdimlib.eliminate import eliminate
    >>> field = PrimeField(4194301)
    >>> j = torch.tensor([[1, 2, 0], [2, 4, 0], [0, 1, 3]])
    >>> source = ExplicitRows(field.lift(j), field.lift(torch.tensor([1, 5, 2])), field)
    >>> found = eliminate(source, field, np.random.default_rng(0), bound=3)
    >>> found.rank, found.pivots.tolist(), found.verified
    (2, [0, 2], True)
    """

    def __init__(self, j: Tensor, d: Tensor, field: PrimeField, outputs: int = 1):
        self.j, self.d, self.field = j, d, field
        self.rows, self.outputs = len(j), outputs

    def select(self, rows: Tensor) -> Tensor:
        return self.j[rows]

    def expect(self, handle: Tensor, pivots: Tensor) -> None:
        """All of J is there."""

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        return self.field.matmul(self.field.mul(a, self.d), b.T)

    def directions(self, count: int, generator: np.random.Generator) -> Tensor:
        return self.field.random(self.j.shape[1], count, generator=generator, device=self.j.device)

    def jvp(self, handle: Tensor, z: Tensor) -> Tensor:
        return self.field.matmul(handle, z)

    def weighted_vjp(self, handle: Tensor, s: Tensor) -> Tensor:
        return self.field.mul(self.field.matmul(handle.T, s), self.d[:, None])


@dataclass(frozen=True)
class Handle:
    """A few rows: g of each layer for each of them, h for each of their samples.

    `sample[i]` is the place of row i's sample among these.
    """

    g: list[Tensor]
    h: list[Tensor]
    sample: Tensor


class KroneckerRows:
    """A row source for fully connected networks that never forms J.

    With the activation pattern frozen, the derivative of output o at sample x by (W_l, b_l) is the
    Kronecker product of g = ∂f_o/∂z_l(x) with [h_{l−1}(x), 1]: J is a row of *row-wise Kronecker
    products*, one a layer. Hence, with random u, v, c on each layer,

        K = J D Jᵀ = Σ_l (G_l diag(u_l) G_lᵀ) ∘ (h_{l−1} diag(v_l) h_{l−1}ᵀ + c_l),

    two thin products a layer: about Σ N_l operations an entry, against P for explicit rows, and
    the second factor only once a pair of samples. Softmax is replaced by the N_L − 1 differences
    of the logits to the last one, whose Jacobian has the same rank exactly: the derivative of
    softmax is diag(p) − ppᵀ, of kernel (1, …, 1), however saturated it is.

    Args:
        layers: (weight, bias or None) of each layer, residues, on the device to compute on.
        signs: signs of the hidden pre-activations, (n, N_l) for each hidden layer.
        x: the sample, residues, (n, N_0).
        softmax: rows are the differences to the last logit instead of the logits.
        generator: of D.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor | None]], signs: list[Tensor], x: Tensor,
                 softmax: bool, field: PrimeField, generator: np.random.Generator):
        self.field = field
        self.device = x.device
        self.has_bias = [bias is not None for _, bias in layers]
        masks = [(sign > 0).double() for sign in signs]
        self.h = [x]
        for (weight, bias), mask in zip(layers, masks):
            z = field.matmul(self.h[-1], weight.T)
            self.h.append(field.reduce_(z if bias is None else z + bias) * mask)
        eye = torch.eye(len(layers[-1][0]), dtype=x.dtype, device=x.device)
        by_outputs = eye[:-1] - eye[-1] if softmax else eye
        self.outputs = len(by_outputs)
        self.rows = len(x) * self.outputs
        self.g = [by_outputs.repeat(len(x), 1)]
        for (weight, _), mask in zip(layers[:0:-1], masks[::-1]):
            of_rows = mask.repeat_interleave(self.outputs, dim=0)
            self.g.insert(0, field.matmul(self.g[0], weight) * of_rows)
        self.u = self._random(generator, [g.shape[1] for g in self.g])
        self.v = self._random(generator, [h.shape[1] for h in self.h])
        c = self._random(generator, [1 for _ in layers])
        self.c = [residue * has for residue, has in zip(c, self.has_bias)]

    def _random(self, generator: np.random.Generator, lengths: list[int],
                *shape: int) -> tuple[Tensor, ...]:
        """Random residues, drawn at once: for each length a tensor (length, *shape)."""
        drawn = self.field.random(sum(lengths), *shape, generator=generator, device=self.device)
        return drawn.split(lengths)

    def select(self, rows: Tensor) -> Handle:
        rows = rows.to(self.device)
        samples, sample = torch.unique(rows // self.outputs, return_inverse=True)
        return Handle([g[rows] for g in self.g], [h[samples] for h in self.h], sample)

    def expect(self, handle: Handle, pivots: Tensor) -> None:
        """An entry of K costs the same alone."""

    def gram(self, a: Handle, b: Handle) -> Tensor:
        """K[a, b]. Each layer adds one product of two residues, so one reduction serves 2,000."""
        field = self.field
        k = a.g[0].new_zeros(len(a.sample), len(b.sample))
        for ga, gb, ha, hb, u, v, c in zip(a.g, b.g, a.h, b.h, self.u, self.v, self.c):
            of_samples = field.reduce_(field.matmul(field.mul(ha, v), hb.T) + c)
            of_rows = field.matmul(field.mul(ga, u), gb.T)
            k.addcmul_(of_rows, of_samples[a.sample][:, b.sample])
        return field.reduce_(k)

    def directions(self, count: int, generator: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
        """For each layer weights (N_l, N_{l−1}, count) and biases (N_l, count)."""
        shapes = [(g.shape[1], h.shape[1], count) for g, h in zip(self.g, self.h)]
        weights = self._random(generator, [after * before for after, before, _ in shapes], count)
        biases = self._random(generator, [after for after, _, _ in shapes], count)
        return [(weight.reshape(shape), bias * has)
                for weight, bias, shape, has in zip(weights, biases, shapes, self.has_bias)]

    def jvp(self, handle: Handle, z: list[tuple[Tensor, Tensor]]) -> Tensor:
        """J z: the sum over layers of g · (W_z h + b_z)."""
        field = self.field
        out = handle.g[0].new_zeros(len(handle.sample), z[0][1].shape[1])
        for g, h, (weights, biases) in zip(handle.g, handle.h, z):
            products = field.matmul(h, weights.movedim(1, 0).flatten(1))
            of_samples = field.reduce_(products.reshape(len(h), *biases.shape) + biases)
            of_rows = field.mul(g[:, :, None], of_samples[handle.sample])
            out = out + field.reduce_(of_rows.sum(dim=1))
        return field.reduce_(out)

    def weighted_vjp(self, handle: Handle, s: Tensor) -> list[tuple[Tensor, Tensor]]:
        """D Jᵀ s: on each layer u ⊗ [v, c] times the sum over rows of s · (g ⊗ [h, 1])."""
        field, z = self.field, []
        for g, h, u, v, c in zip(handle.g, handle.h, self.u, self.v, self.c):
            of_rows = field.mul(field.mul(g[:, :, None], s[:, None, :]), u[:, None])
            shape = of_rows.shape[1:]  # (N_l, count)
            of_samples = of_rows.new_zeros(len(h), *shape).index_add_(0, handle.sample, of_rows)
            of_samples = field.reduce_(of_samples).flatten(1)
            weights = field.matmul(of_samples.T, h).reshape(*shape, -1).movedim(2, 1)
            biases = field.reduce_(of_samples.sum(dim=0)).reshape(shape)
            z.append((field.mul(weights, v[:, None]), field.mul(biases, c)))
        return z
