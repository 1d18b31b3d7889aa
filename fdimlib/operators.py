"""What a network computes, as a list of small operators: each a class, each with its derivative.

An operator takes entries of earlier results and gives a column of F numbers for every sample,
(F, n). It is written once and runs in any arithmetic (`Numbers`): floating point with error bounds
(`bounded`), exact integers (`wide`), residues modulo a prime (`residues`). *Which* piece of a
piecewise operator an entry lies on is decided once, with certainty (`decisions`); from then on the
network is a polynomial, and derivatives are taken on residues with the decisions frozen:

- `push`: from the derivatives of what comes in to that of the result (forward mode), and
- `pull`: from a derivative by the result to those by what comes in (reverse mode),

for c directions at a time and every sample, tensors (F, n, c). What does not depend on the sample,
a parameter say, has n = 1 and is broadcast. Affine operators have a module of their own (`affine`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fdimlib.finite_field import PrimeField

ZERO = -1  # in an index: the number 0 instead of an entry, as padding has it


class Numbers(Protocol):
    """An arithmetic: what operators ask of the numbers that they work on, (F, n) each."""

    def constant(self, values: Tensor) -> Any:
        """Floating-point numbers (F, n) as they are."""

    def take(self, x: Any, index: Tensor) -> Any:
        """Entries by their places, ZERO for the number 0."""

    def join(self, parts: Sequence[Any]) -> Any:
        """One after the other."""

    def add(self, x: Any, y: Any) -> Any: ...

    def negate(self, x: Any) -> Any: ...

    def multiply(self, x: Any, y: Any) -> Any: ...

    def divide(self, x: Any, odd: Tensor) -> Any:
        """By odd integers (F,)."""

    def masked(self, x: Any, mask: Tensor) -> Any:
        """x, and the number 0 where the mask is False."""

    def sum_windows(self, x: Any, count: int) -> Any:
        """(count · T, n) → (T, n)."""

    def pick(self, x: Any, count: int, code: Tensor) -> Any:
        """(count · T, n) → (T, n), the entry that `code` (T, n) names."""

    def product(self, w: Any, x: Any, shape: tuple[int, int, int, int]) -> Any:
        """W x for every group and position; (G·O·K, 1), (G·K·T, n) → (G·O·T, n)."""

    def sign(self, x: Any) -> tuple[Tensor, Tensor]:
        """−1, 0 or 1 of each entry, int8, and whether that is proved."""


class Operand(NamedTuple):
    """What an operator takes: the result of an earlier one, or entries of it.

    Attributes:
        node: place of that operator in the program.
        entries: (F,) int64, its entries in the order wanted, ZERO for the number 0; None: all.
    """

    node: int
    entries: Tensor | None = None


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x, (F, …), or 0."""
    taken = x.index_select(0, index.clamp_min(0))
    return taken.index_fill_(0, (index == ZERO).nonzero()[:, 0], 0)


def put(x: Tensor, index: Tensor, size: int) -> Tensor:
    """The transpose of `take`: rows added up at their places, (size, …)."""
    places = torch.where(index == ZERO, size, index)
    return x.new_zeros(size + 1, *x.shape[1:]).index_add_(0, places, x)[:size]


class Choice(NamedTuple):
    """What a piecewise operator decided at n samples.

    Attributes:
        code: which piece each entry of the result is on, (F, n).
        sure: (n,) whether all of it is proved.
        tied: entries that lie exactly where two pieces meet, (F, n), or that are as large as the
            one chosen, (count, F, n); None if there are none.
    """

    code: Tensor
    sure: Tensor
    tied: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Operator(ABC):
    """A node of a program.

    Attributes:
        inputs: what it takes.
        size: F, the entries of its result at one sample.
    """

    inputs: tuple[Operand, ...]
    size: int

    decides = False  # whether `decide` is asked before `forward`

    @abstractmethod
    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        """The result, in any arithmetic."""

    def decide(self, numbers: Numbers, inputs: Sequence[Any]) -> Choice:
        raise NotImplementedError

    def keeps(self, varies: Sequence[bool]) -> list[bool]:
        """Which inputs the derivative needs, if those in `varies` depend on parameters."""
        return [False] * len(self.inputs)

    @abstractmethod
    def push(self, field: PrimeField, tangents: Sequence[Tensor | None],
             kept: Sequence[Tensor | None], code: Any) -> Tensor:
        """Forward mode; None stands for the tangent of what does not vary."""

    @abstractmethod
    def pull(self, field: PrimeField, g: Tensor, varies: Sequence[bool],
             kept: Sequence[Tensor | None], code: Any) -> list[Tensor | None]:
        """Reverse mode, for the inputs that vary."""


class Source(Operator):
    """Where numbers come from: nothing goes in."""

    def push(self, field: PrimeField, tangents: Any, kept: Any, code: Any) -> Tensor:
        raise NotImplementedError("its tangent is given from outside")

    def pull(self, field: PrimeField, g: Tensor, varies: Any, kept: Any,
             code: Any) -> list[Tensor | None]:
        return []


class Input(Source):
    """The sample, flattened."""

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        raise NotImplementedError("its value is given from outside")


@dataclass(frozen=True, eq=False)
class Parameter(Source):
    """A parameter that counts: its place among them, and where its entries begin in θ."""

    number: int
    start: int

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        raise NotImplementedError("its value is given from outside")


@dataclass(frozen=True, eq=False)
class Constant(Source):
    """Numbers that do not vary, (F,) float64."""

    values: Tensor

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        return numbers.constant(self.values[:, None])


@dataclass(frozen=True, eq=False)
class Join(Operator):
    """One result behind the other, of these sizes."""

    sizes: tuple[int, ...]

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        return numbers.join(inputs)

    def push(self, field: PrimeField, tangents: Sequence[Tensor | None], kept: Any,
             code: Any) -> Tensor:
        given = next(t for t in tangents if t is not None)
        samples = max(t.shape[1] for t in tangents if t is not None)
        parts = []
        for tangent, size in zip(tangents, self.sizes):
            if tangent is None:
                tangent = given.new_zeros(size, 1, given.shape[2])
            parts.append(tangent.expand(-1, samples, -1))
        return torch.cat(parts)

    def pull(self, field: PrimeField, g: Tensor, varies: Sequence[bool], kept: Any,
             code: Any) -> list[Tensor | None]:
        return [part if wanted else None
                for part, wanted in zip(g.split(list(self.sizes)), varies)]


class Sum(Operator):
    """x + y."""

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        return numbers.add(*inputs)

    def push(self, field: PrimeField, tangents: Sequence[Tensor | None], kept: Any,
             code: Any) -> Tensor:
        x, y = tangents
        if x is None or y is None:
            return x if y is None else y  # type: ignore[return-value]
        return field.reduce_(x + y)

    def pull(self, field: PrimeField, g: Tensor, varies: Sequence[bool], kept: Any,
             code: Any) -> list[Tensor | None]:
        return [g if wanted else None for wanted in varies]


class Negative(Operator):
    """−x."""

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        return numbers.negate(inputs[0])

    def push(self, field: PrimeField, tangents: Sequence[Any], kept: Any, code: Any) -> Tensor:
        return -tangents[0]

    def pull(self, field: PrimeField, g: Tensor, varies: Any, kept: Any,
             code: Any) -> list[Tensor | None]:
        return [-g]


class Product(Operator):
    """x · y, entry by entry: a scale where one of them is a constant or a parameter."""

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        return numbers.multiply(*inputs)

    def keeps(self, varies: Sequence[bool]) -> list[bool]:
        return [varies[1], varies[0]]

    def push(self, field: PrimeField, tangents: Sequence[Tensor | None], kept: Sequence[Any],
             code: Any) -> Tensor:
        parts = [tangent * other[:, :, None]
                 for tangent, other in zip(tangents, reversed(kept)) if tangent is not None]
        return field.reduce_(sum(parts[1:], parts[0]))

    def pull(self, field: PrimeField, g: Tensor, varies: Sequence[bool], kept: Sequence[Any],
             code: Any) -> list[Tensor | None]:
        return [field.mul(g, other[:, :, None]) if wanted else None
                for wanted, other in zip(varies, reversed(kept))]


@dataclass(frozen=True, eq=False)
class Divide(Operator):
    """x divided by odd integers, (F,) int64; powers of two are products with constants."""

    odd: Tensor

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        return numbers.divide(inputs[0], self.odd)

    def push(self, field: PrimeField, tangents: Sequence[Any], kept: Any, code: Any) -> Tensor:
        return field.mul(tangents[0], field.inverse(self.odd)[:, None, None])

    def pull(self, field: PrimeField, g: Tensor, varies: Any, kept: Any,
             code: Any) -> list[Tensor | None]:
        return [field.mul(g, field.inverse(self.odd)[:, None, None])]


@dataclass(frozen=True, eq=False)
class Windows(Operator):
    """Sums of `count` entries each, (count · T) → T."""

    count: int

    def forward(self, numbers: Numbers, inputs: Sequence[Any], code: Any) -> Any:
        return numbers.sum_windows(inputs[0], self.count)

    def push(self, field: PrimeField, tangents: Sequence[Any], kept: Any, code: Any) -> Tensor:
        return field.reduce_(tangents[0].unflatten(0, (self.count, self.size)).sum(dim=0))

    def pull(self, field: PrimeField, g: Tensor, varies: Any, kept: Any,
             code: Any) -> list[Tensor | None]:
        return [g.repeat(self.count, 1, 1)]
