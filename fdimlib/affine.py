"""Linear layers and convolutions: W x + b at one position or many, as a matrix product.

A convolution is a matrix product of its weights with *patches*: which entries of its input a
position sees is the operand's index, so that patches are copies, exact in every arithmetic. A
layer that is applied at T positions has T = 1 for a Linear on vectors, the length of a sequence,
or the pixels of a feature map; G groups share nothing. On one sample

    z[g, o, t] = Σ_k W[g, o, k] · x[g, k, t] + b[g, o],

and a row of J on W is Σ_t g[g, o, t] · x[g, k, t], g the derivative of an output by z.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fdimlib.finite_field import INNER, PrimeField
from fdimlib.operators import Numbers, Operator

PART = 2**24  # numbers of patches, or of explicit rows, held at once


@dataclass(frozen=True, eq=False)
class Affine(Operator):
    """W x + b; takes W (G·O·K), x (G·K·T) and, if there is one, b (G·O).

    Attributes:
        shape: (G, O, K, T).
    """

    shape: tuple[int, int, int, int]

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        z = numbers.product(inputs[0], inputs[1], self.shape)
        return numbers.add(z, numbers.take(inputs[2], self._spread())) if inputs[2:] else z

    def _spread(self) -> Tensor:
        """The bias of each entry of the result."""
        groups, outputs, _, positions = self.shape
        index = self.inputs[1].entries
        device = None if index is None else index.device
        return torch.arange(groups * outputs, device=device).repeat_interleave(positions)

    def keeps(self, varies: Sequence[bool]) -> list[bool]:
        return [varies[1], varies[0], False][: len(self.inputs)]

    def weight(self, w: Tensor) -> Tensor:
        """(G·O·K, …) → (G, O, K, …)."""
        return w.reshape(self.shape[:3] + w.shape[1:])

    def patches(self, x: Tensor) -> Tensor:
        """(G·K·T, …) → (G, K, T, …)."""
        groups, _, inner, positions = self.shape
        return x.reshape(groups, inner, positions, *x.shape[1:])

    def results(self, z: Tensor) -> Tensor:
        """(G·O·T, …) → (G, O, T, …)."""
        groups, outputs, _, positions = self.shape
        return z.reshape(groups, outputs, positions, *z.shape[1:])

    def push(self, field: PrimeField, tangents: Sequence[Tensor | None],
             kept: Sequence[Any], code: Any) -> Tensor:
        parts = []
        by_weight, by_input, by_bias = [*tangents, None][:3]
        if by_input is not None:
            w = self.weight(kept[0])[..., 0]
            z = field.matmul(w, self.patches(by_input).flatten(2))
            parts.append(z.reshape(self.size, *by_input.shape[1:]))
        if by_weight is not None:
            x = self.patches(kept[1]).flatten(2)
            products = [field.matmul(w, x).reshape(self.size, -1)
                        for w in self.weight(by_weight)[:, :, :, 0].unbind(-1)]
            parts.append(torch.stack(products, dim=-1))
        if by_bias is not None:
            parts.append(by_bias.repeat_interleave(self.shape[3], dim=0))
        return field.reduce_(sum(parts[1:], parts[0] + 0))

    def pull(self, field: PrimeField, g: Tensor, varies: Sequence[bool], kept: Sequence[Any],
             code: Any) -> list[Tensor | None]:
        found: list[Tensor | None] = [None] * len(self.inputs)
        if varies[0]:
            rows = torch.cat([rows for _, rows in self.explicit(field, g, kept[1])], dim=2)
            found[0] = rows.permute(2, 0, 1)
        if varies[1]:
            found[1] = field.reduce_(self.pull_input(field, g, kept[0]))
        if varies[2:] and varies[2]:
            found[2] = self.pull_bias(field, g)
        return found

    def pull_input(self, field: PrimeField, g: Tensor, w: Tensor, repeated: int = 1) -> Tensor:
        """Wᵀ g; not reduced, if that can wait until `repeated` of them are added up."""
        transposed, g_ = self.weight(w)[..., 0].mT, self.results(g).flatten(2)
        wait = repeated * self.shape[1] <= INNER
        x = transposed @ g_ if wait else field.matmul(transposed, g_)
        return x.reshape(-1, *g.shape[1:])

    def pull_bias(self, field: PrimeField, g: Tensor) -> Tensor:
        return field.reduce_(self.results(g).sum(dim=2)).flatten(0, 1)

    def explicit(self, field: PrimeField, g: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows of J on W: parts (columns, rows), the latter (n, c, columns)."""
        groups, outputs, inner, _ = self.shape
        samples, count = g.shape[1:]
        x = self.patches(x).expand(-1, -1, -1, samples).permute(0, 3, 2, 1)  # (G, n, T, K)
        g = self.results(g).permute(0, 3, 4, 1, 2)  # (G, n, c, O, T)
        columns = torch.arange(groups * outputs * inner, device=g.device)
        columns = columns.reshape(groups, outputs, inner)
        step = max(1, PART // (samples * count * inner))
        for group in range(groups):
            of_inputs = x[group].contiguous()
            for first in range(0, outputs, step):
                part = slice(first, min(first + step, outputs))
                of_outputs = g[group, :, :, part].flatten(1, 2)  # (n, c·O, T)
                rows = field.matmul(of_outputs.contiguous(), of_inputs)
                yield (columns[group, part].flatten(),
                       rows.reshape(samples, count, -1))

    def by_positions(self, rows: float) -> bool:
        """Whether K costs less from pairs of positions than from explicit rows of the weight.

        Args:
            rows: of a sample.
        """
        groups, outputs, inner, positions = self.shape
        return groups * positions**2 * (outputs + inner / rows**2 + 4) < groups * outputs * inner

    def pairs(self, field: PrimeField, g: Tensor, x: Tensor, u: Tensor,
              v: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What each pair of positions adds to K, as factors of two products.

        Args:
            u, v: the factors of D on W, (G, O) and (G, K).

        Yields:
            (rows, O), (O, rows) of all rows (n, c), and (n, K), (K, n) of samples.
        """
        g = self.results(g).flatten(3)  # (G, O, T, n·c)
        x = self.patches(x)
        for group in range(self.shape[0]):
            for first in range(self.shape[3]):
                left = field.mul(g[group, :, first], u[group, :, None]).T.contiguous()
                of_left = field.mul(x[group, :, first], v[group, :, None]).T.contiguous()
                for second in range(self.shape[3]):
                    yield left, g[group, :, second], of_left, x[group, :, second]

    def total(self, field: PrimeField, g: Tensor, x: Tensor) -> Tensor:
        """Jᵀ summed over samples, (G·O·K, c)."""
        count = g.shape[2]
        x = self.patches(x).expand(-1, -1, -1, g.shape[1]).flatten(2)
        g = self.results(g).permute(0, 1, 4, 2, 3).flatten(3).flatten(1, 2)  # (G, O·c, T·n)
        by_weight = field.matmul(g, x.mT)
        return by_weight.reshape(*self.shape[:2], count, -1).transpose(2, 3).reshape(-1, count)
