"""The rows of Df_θ(X) modulo a prime, for the elimination of `elimination.py`, without forming the matrix.

With the activation pattern frozen, the derivative of output o at sample x with respect to (W_l, b_l) is the Kronecker
product of g = ∂f_o/∂z_l(x) with [h_{l−1}(x), 1]: Df_θ(X) is a row of *row-wise Kronecker products*, one a layer. Hence, with
random u_l, v_l, c_l as the diagonal D = (u_l ⊗ [v_l, c_l])_l,

    K = J D Jᵀ = Σ_l (G_l diag(u_l) G_lᵀ) ∘ (h_{l−1} diag(v_l) h_{l−1}ᵀ + c_l),

two thin products a layer: about Σ N_l operations an entry, against P for explicit rows, and the second factor only once
a pair of samples. Softmax is replaced by the N_L − 1 differences of the logits to the last one, whose Jacobian has the same
rank exactly: the derivative of softmax is diag(p) − ppᵀ, of kernel (1, …, 1), however saturated it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fdimlib.finite_field import PrimeField


@dataclass(frozen=True)
class Handle:
    """A few rows: G_l for each, and h_{l−1} for each of their samples, `sample[i]` being that of row i."""

    g: list[Tensor]
    h: list[Tensor]
    sample: Tensor


class JacobianRows:
    """A `RowSource`: rows (sample, output), sample-major.

    Args:
        layers: (weight, bias or None) of each layer, residues, on the device to compute on.
        signs: signs of the hidden pre-activations, (n, N_l) for each hidden layer.
        x: the sample, residues, (n, N_0).
        softmax: rows are the differences to the last logit instead of the logits.
        seed: of D and of the directions.
    """

    def __init__(self, layers, signs: list[Tensor], x: Tensor, softmax: bool, field: PrimeField, seed: int):
        self.field, self.device = field, x.device
        self.generator = torch.Generator().manual_seed(seed)
        masks = [(sign > 0).double() for sign in signs]
        self.h = [x]
        for (weight, bias), mask in zip(layers, masks):
            z = field.matmul(self.h[-1], weight.T)
            self.h.append(field.reduce_(z if bias is None else z + bias) * mask)
        eye = torch.eye(len(layers[-1][0]), dtype=x.dtype, device=x.device)
        seed_rows = eye[:-1] - eye[-1] if softmax else eye
        self.outputs = len(seed_rows)
        self.rows = len(x) * self.outputs
        self.g = [seed_rows.repeat(len(x), 1)]
        for (weight, _), mask in zip(layers[:0:-1], masks[::-1]):
            self.g.insert(0, field.matmul(self.g[0], weight) * mask.repeat_interleave(self.outputs, dim=0))
        self.has_bias = [bias is not None for _, bias in layers]
        self.u = [self._random(g.shape[1]) for g in self.g]
        self.v = [self._random(h.shape[1]) for h in self.h]
        self.c = [self._random(1) * has for has in self.has_bias]

    def _random(self, *shape: int) -> Tensor:
        return self.field.random(*shape, generator=self.generator, device=self.device)

    def take(self, rows: Tensor) -> Handle:
        rows = rows.to(self.device)
        samples, sample = torch.unique(rows // self.outputs, return_inverse=True)
        return Handle([g[rows] for g in self.g], [h[samples] for h in self.h], sample)

    def gram(self, a: Handle, b: Handle) -> Tensor:
        """K[a, b]. Each layer adds products of two residues, below 2^42, so one reduction serves up to 2,000 layers."""
        field, k = self.field, a.g[0].new_zeros(len(a.sample), len(b.sample))
        for ga, gb, ha, hb, u, v, c in zip(a.g, b.g, a.h, b.h, self.u, self.v, self.c):
            inner = field.reduce_(field.matmul(field.mul(ha, v), hb.T) + c)
            k.addcmul_(field.matmul(field.mul(ga, u), gb.T), inner[a.sample][:, b.sample])
        return field.reduce_(k)

    def directions(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Random directions in parameter space: for each layer weights (N_l, N_{l−1}, count) and biases (N_l, count)."""
        return [(self._random(g.shape[1], h.shape[1], count), self._random(g.shape[1], count) * has)
                for g, h, has in zip(self.g, self.h, self.has_bias)]

    def push(self, handle: Handle, z) -> Tensor:
        """J z: the derivatives along the directions, shape (rows, count)."""
        out = 0
        for g, h, (weights, biases) in zip(handle.g, handle.h, z):
            for_samples = self.field.matmul(h, weights.movedim(1, 0).flatten(1)).reshape(len(h), *biases.shape)
            along = self.field.reduce_(for_samples + biases)[handle.sample]
            out = out + self.field.reduce_(self.field.mul(g[:, :, None], along).sum(dim=1))
        return self.field.reduce_(out)

    def pull(self, handle: Handle, s: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The directions D Jᵀ s: on each layer u ⊗ [v, c] times the sum over rows of s·(g ⊗ [h, 1])."""
        field, z = self.field, []
        for g, h, u, v, c in zip(handle.g, handle.h, self.u, self.v, self.c):
            weighted = field.mul(field.mul(g[:, :, None], s[:, None, :]), u[:, None])  # (rows, N_l, count)
            by_sample = weighted.new_zeros(len(h), *weighted.shape[1:]).index_add_(0, handle.sample, weighted)
            by_sample = field.reduce_(by_sample).flatten(1)
            weights = field.matmul(by_sample.T, h).reshape(*weighted.shape[1:], -1).movedim(2, 1)
            biases = field.reduce_(by_sample.sum(dim=0)).reshape(weighted.shape[1:])
            z.append((field.mul(weights, v[:, None]), field.mul(biases, c)))
        return z
