"""A program's derivative at n samples, on residues, with its decisions frozen.

Nothing here is a matrix of n·N_L by P: directions in parameter space are pushed through to the
outputs, and rows of J are pulled back operator by operator. What a row holds on one operator's
parameters comes out as a *share*, of all rows at once, and is gone before the next.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fdimlib.affine import PART, Affine
from fdimlib.finite_field import PrimeField
from fdimlib.operators import Operand, Parameter, put, take
from fdimlib.program import Program, run
from fdimlib.residues import Residues


@dataclass(frozen=True)
class Share:
    """All rows of J on one parameter.

    Attributes:
        columns: of J.
        g: the rows themselves, (columns, n, c).
    """

    columns: Tensor
    g: Tensor


@dataclass(frozen=True)
class AffineShare(Share):
    """All rows of J on a weight that one affine operator takes, and nothing else.

    Attributes:
        g: the derivatives by the operator's result, (G·O·T, n, c).
        x: what it takes, (G·K·T, n).
        place: of the operator.
    """

    affine: Affine
    x: Tensor
    place: int


class Linearised:
    """The derivative at some samples.

    Args:
        theta: residues of the parameters by their number, (F, 1).
        x: residues, (F, n).
        codes: the decisions at these samples.
    """

    def __init__(self, program: Program, field: PrimeField, theta: Mapping[int, Tensor],
                 x: Tensor, codes: Mapping[int, Tensor]):
        self.program, self.field, self.codes = program, field, codes
        self.samples, self.like = x.shape[1], x
        wanted = set()
        for place, operator in enumerate(program.operators):
            if program.varies[place]:
                keeps = operator.keeps([program.varies[node] for node, _ in operator.inputs])
                wanted |= {operand.node for operand, kept in zip(operator.inputs, keeps) if kept}
        found = run(program, Residues(field, x.device), x, theta, codes, keep=wanted)
        # A residue fits float32, which halves what is held.
        self.kept = {node: found[node].float() for node in wanted}

    def _kept(self, place: int) -> list[Tensor | None]:
        operator = self.program.operators[place]
        keeps = operator.keeps([self.program.varies[node] for node, _ in operator.inputs])
        return [self._fetched(operand) if kept else None
                for operand, kept in zip(operator.inputs, keeps)]

    def _fetched(self, operand: Operand) -> Tensor:
        kept = self.kept[operand.node]
        return (kept if operand.entries is None else take(kept, operand.entries)).double()

    def push(self, z: Tensor) -> Tensor:
        """The outputs' derivatives in directions z, (P, c): (N_L, n, c)."""
        program = self.program
        tangents: dict[int, Tensor | None] = {}
        for place, operator in enumerate(program.operators):
            if isinstance(operator, Parameter):
                part = z[operator.start : operator.start + operator.size]
                tangents[place] = part[:, None, :]
            elif program.varies[place]:
                given = [_taken(tangents.get(node), index) for node, index in operator.inputs]
                tangents[place] = operator.push(self.field, given, self._kept(place),
                                                self.codes.get(place))
            for done in program.last_use[place]:
                tangents.pop(done, None)
        node, index = program.output
        if node not in tangents:
            return self.like.new_zeros(program.entries, self.samples, z.shape[1])
        found = _taken(tangents[node], index)
        assert found is not None
        return found.expand(-1, self.samples, -1)

    def pull(self, g: Tensor) -> Iterator[Share]:
        """The rows with derivatives g by the outputs, (N_L, n, c), share by share."""
        program = self.program
        waiting: dict[int, Tensor] = {}
        self._add(waiting, program.output, g)
        for place in reversed(range(len(program.operators))):
            if place not in waiting:
                continue
            operator, g = program.operators[place], waiting.pop(place)
            if isinstance(operator, Parameter):
                columns = torch.arange(operator.start, operator.start + operator.size,
                                       device=g.device)
                yield Share(columns, g)
                continue
            varies = [program.varies[node] for node, _ in operator.inputs]
            kept = self._kept(place)
            if isinstance(operator, Affine) and place in program.own_weights:
                x = kept[1]
                assert x is not None
                columns = program.own_weights[place].to(g.device)
                yield AffineShare(columns, g, operator, x.expand(-1, self.samples), place)
                varies[0] = False
            if isinstance(operator, Affine) and varies[1]:
                self._pull_patches(waiting, operator, g, kept[0])
                varies[1] = False
            pulled = operator.pull(self.field, g, varies, kept, self.codes.get(place))
            for operand, part in zip(operator.inputs, pulled):
                if part is not None and program.varies[operand.node]:
                    self._add(waiting, operand, part)

    def _pull_patches(self, waiting: dict[int, Tensor], operator: Affine, g: Tensor,
                      w: Tensor | None) -> None:
        """Some samples at a time, since patches are many times as large as what they are of."""
        assert w is not None
        _, _, inner, positions = operator.shape
        numbers = operator.shape[0] * inner * positions * g.shape[2]
        entries = operator.inputs[1].entries
        repeated = 1 if entries is None else int(torch.bincount(entries + 1)[1:].max())
        parts = []
        for some in g.split(max(1, PART // numbers), dim=1):
            part = operator.pull_input(self.field, some, w, repeated)
            parts.append(self.field.reduce_(self._put(operator.inputs[1], part)))
        self._add_put(waiting, operator.inputs[1].node, torch.cat(parts, dim=1))

    def _add(self, waiting: dict[int, Tensor], operand: Operand, g: Tensor) -> None:
        moved = operand.entries is not None
        g = self._put(operand, g)
        self._add_put(waiting, operand.node, self.field.reduce_(g) if moved else g)

    def _put(self, operand: Operand, g: Tensor) -> Tensor:
        node, entries = operand
        if entries is None:
            return g
        return put(g, entries, self.program.operators[node].size)

    def _add_put(self, waiting: dict[int, Tensor], node: int, g: Tensor) -> None:
        waiting[node] = self.field.reduce_(waiting[node] + g) if node in waiting else g


def _taken(tangent: Tensor | None, entries: Tensor | None) -> Tensor | None:
    return tangent if tangent is None or entries is None else take(tangent, entries)
