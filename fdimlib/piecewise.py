"""Operators that choose: ReLU and its kin by where a number lies, max-pooling by which is largest.

At a choice between pieces that is a tie, the derivative is that of torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fdimlib.finite_field import PrimeField
from fdimlib.operators import Choice, Numbers, Operator


@dataclass(frozen=True, eq=False)
class Switch(Operator):
    """A continuous, piecewise linear function of one number: ReLU, |x|, clamp.

    Entries have the code 2i on the i-th piece and 2i + 1 on the threshold above it.

    Attributes:
        thresholds: ascending.
        pieces: (slope, offset) of each piece, one more than thresholds; slopes −1, 0 or 1.
        at: the slope taken at each threshold; −1, 0, ½ or 1.
    """

    thresholds: tuple[float, ...]
    pieces: tuple[tuple[int, float], ...]
    at: tuple[float, ...]

    decides = True

    @property
    def is_relu(self) -> bool:
        return self.pieces == ((0, 0.0), (1, 0.0)) and self.at == (0,)

    def decide(self, numbers: Numbers, inputs: Sequence[Any]) -> Choice:
        codes, sure, on_threshold = [], [], []
        for threshold in self.thresholds:
            x = inputs[0]
            if threshold:
                low = torch.tensor([[-threshold]], dtype=torch.float64)
                x = numbers.add(x, numbers.constant(low))
            sign, proved = numbers.sign(x)
            codes.append(sign + 1)
            sure.append(proved.all(dim=0))
            on_threshold.append(sign == 0)
        code = torch.stack(codes).sum(dim=0).to(torch.int8)
        on = torch.stack(on_threshold).any(dim=0)
        return Choice(code, torch.stack(sure).all(dim=0), on if on.any() else None)

    def irregular(self, field: PrimeField, x: Tensor, code: Tensor) -> Tensor:
        """Which entries are not on the threshold that their code says, residues or not."""
        thresholds = field.image(torch.tensor(self.thresholds, dtype=torch.float64)).to(x)
        return field.reduce_(x - thresholds[(code.long() - 1).clamp_min(0) // 2]) != 0

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Tensor) -> Any:
        x, result = inputs[0], None
        for piece, (slope, offset) in enumerate(self.pieces):
            here = (code == 2 * piece) | (code == 2 * piece + 1)
            parts = []
            if slope:
                parts.append(numbers.masked(x if slope > 0 else numbers.negate(x), here))
            if offset:
                value = torch.full((self.size, 1), offset, dtype=torch.float64)
                parts.append(numbers.masked(numbers.constant(value), here))
            for part in parts:
                result = part if result is None else numbers.add(result, part)
        if result is None:
            return numbers.masked(x, torch.zeros_like(code, dtype=torch.bool))
        return result

    def _times_slope(self, field: PrimeField, t: Tensor, code: Tensor) -> Tensor:
        """Residues (F, n, c) times the slope at every entry."""
        if self.is_relu:
            return t * (code == 2).to(t)[:, :, None]
        slopes = [float(self.pieces[0][0])]
        for at, (slope, _) in zip(self.at, self.pieces[1:]):
            slopes += [at, float(slope)]
        table = field.image(torch.tensor(slopes, dtype=torch.float64)).to(t)
        return field.mul(t, table[code.long()][:, :, None])

    def push(self, field: PrimeField, tangents: Sequence[Any], kept: Any, code: Tensor) -> Tensor:
        return self._times_slope(field, tangents[0], code)

    def pull(self, field: PrimeField, g: Tensor, varies: Any, kept: Any,
             code: Tensor) -> list[Tensor | None]:
        return [self._times_slope(field, g, code)]


@dataclass(frozen=True, eq=False)
class Max(Operator):
    """The largest of `count` entries each, (count · T) → T; the first of those that tie.

    Attributes:
        absent: (count, T) bool, entries that are none, as max-pooling pads.
    """

    count: int
    absent: Tensor

    decides = True

    def decide(self, numbers: Numbers, inputs: Sequence[Any]) -> Choice:
        x, absent = inputs[0], self.absent[:, :, None]
        places = torch.arange(self.count * self.size).reshape(self.count, self.size)
        entries = [numbers.take(x, row.to(self.absent.device)) for row in places]
        top, chosen = entries[0], None
        absent_top = absent[0]
        sure = []
        for number in range(1, self.count):
            sign, proved = numbers.sign(numbers.add(entries[number], numbers.negate(top)))
            if chosen is None:
                chosen = torch.zeros(sign.shape, dtype=torch.int32, device=sign.device)
            better = ((sign > 0) | absent_top) & ~absent[number]
            sure.append((proved | absent_top | absent[number]).all(dim=0))
            chosen[better] = number
            top = numbers.add(numbers.masked(entries[number], better),
                              numbers.masked(top, ~better))
            absent_top = absent_top & absent[number]
        if chosen is None:
            sign, _ = numbers.sign(top)
            chosen = torch.zeros(sign.shape, dtype=torch.int32, device=sign.device)
            return Choice(chosen, torch.ones_like(sign[0], dtype=torch.bool))
        tied = []
        for number, entry in enumerate(entries):
            sign, proved = numbers.sign(numbers.add(entry, numbers.negate(top)))
            other = (chosen != number) & ~absent[number]
            sure.append((proved | ~other).all(dim=0))
            tied.append((sign == 0) & other)
        ties = torch.stack(tied)
        return Choice(chosen, torch.stack(sure).all(dim=0), ties if ties.any() else None)

    def irregular(self, field: PrimeField, x: Tensor, code: Tensor) -> Tensor:
        """Which entries differ from the one chosen, (count, T, n)."""
        windows = x.unflatten(0, (self.count, self.size))
        windows = windows.expand(-1, -1, code.shape[1])
        return field.reduce_(windows - windows.gather(0, code.long()[None])) != 0

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Tensor) -> Any:
        return numbers.pick(inputs[0], self.count, code)

    def push(self, field: PrimeField, tangents: Sequence[Any], kept: Any, code: Tensor) -> Tensor:
        windows = tangents[0].unflatten(0, (self.count, self.size))
        windows = windows.expand(-1, -1, code.shape[1], -1)
        at = code.long()[None, :, :, None].expand(-1, -1, -1, windows.shape[3])
        return windows.gather(0, at)[0]

    def pull(self, field: PrimeField, g: Tensor, varies: Any, kept: Any,
             code: Tensor) -> list[Tensor | None]:
        at = code.long()[None, :, :, None].expand(-1, -1, -1, g.shape[2])
        spread = g.new_zeros(self.count, *g.shape).scatter_(0, at, g[None])
        return [spread.flatten(0, 1)]
