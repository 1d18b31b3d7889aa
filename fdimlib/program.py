"""A network as a list of operators, and how it is run in any arithmetic.

The operators stand in order: each takes what earlier ones give. Parameters are operators, too,
that take nothing, so whatever the network makes of them (a transposed or a masked weight, a weight
used twice) is part of the program.
"""

import hashlib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fdimlib.affine import Affine
from fdimlib.operators import Choice, Divide, Input, Numbers, Operand, Operator, Parameter
from fdimlib.piecewise import Switch


@dataclass(frozen=True, eq=False)
class Program:
    """What a network computes on one sample.

    Attributes:
        operators: in order.
        output: the N_L outputs, flattened; before the softmax if there is one.
        groups: of outputs between which a softmax compares, (groups, members) places among them;
            None for the identity head.
        softened: those of the network's own softmax, whatever the head.
        names: of the parameters that count, in the order of θ.
        tensors: these parameters.
        frozen: how many of their entries have `requires_grad=False`.
        shape: of a sample.
    """

    operators: tuple[Operator, ...]
    output: Operand
    groups: Tensor | None
    softened: Tensor | None
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    frozen: int
    shape: tuple[int, ...]

    @property
    def head(self) -> str:
        return "identity" if self.groups is None else "softmax"

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device if self.tensors else torch.device("cpu")

    def to(self, device: torch.device) -> "Program":
        """With all places and constants on a device."""
        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, Operand):
                return Operand(value.node, moved(value.index))
            return tuple(map(moved, value)) if isinstance(value, tuple) else value

        if device.type == "cpu":
            return self  # where they were made
        operators = [replace(operator, **{field.name: moved(getattr(operator, field.name))
                                          for field in fields(operator)})
                     for operator in self.operators]
        return replace(self, operators=tuple(operators), output=moved(self.output),
                       groups=moved(self.groups))

    @property
    def parameters(self) -> int:
        """P."""
        return sum(p.numel() for p in self.tensors)

    @property
    def entries(self) -> int:
        """N_L."""
        index = self.output.entries
        return self.operators[self.output.node].size if index is None else len(index)

    @property
    def outputs(self) -> int:
        """Rows of a sample: N_L, or with softmax the differences to the last of each group."""
        return self.entries - (0 if self.groups is None else len(self.groups))

    @cached_property
    def varies(self) -> list[bool]:
        """Whether each result depends on the parameters that count."""
        found: list[bool] = []
        for operator in self.operators:
            found.append(isinstance(operator, Parameter)
                         or any(found[operand.node] for operand in operator.inputs))
        return found

    @cached_property
    def batched(self) -> list[bool]:
        """Whether each result depends on the sample."""
        found: list[bool] = []
        for operator in self.operators:
            found.append(isinstance(operator, Input)
                         or any(found[operand.node] for operand in operator.inputs))
        return found

    def allows(self, prime: int) -> bool:
        """Whether a prime divides none of the numbers by which the network divides."""
        return not any((operator.odd % prime == 0).any() for operator in self.operators
                       if isinstance(operator, Divide))

    @cached_property
    def own_weights(self) -> dict[int, Tensor]:
        """The columns of J of each affine operator's weight that is a parameter used just there."""
        found = {}
        for place, operator in enumerate(self.operators):
            if not isinstance(operator, Affine):
                continue
            node, entries = operator.inputs[0]
            parameter = self.operators[node]
            if not isinstance(parameter, Parameter) or self.uses[node] > 1:
                continue
            columns = torch.arange(parameter.start, parameter.start + parameter.size)
            if entries is None:
                found[place] = columns
            elif torch.equal(entries.sort().values.cpu(), columns - parameter.start):
                found[place] = columns[entries.cpu()]
        return found

    @property
    def alone(self) -> set[int]:
        """The numbers of the parameters that are such a weight."""
        nodes = (self.operators[self.operators[place].inputs[0].node] for place in self.own_weights)
        return {node.number for node in nodes if isinstance(node, Parameter)}

    @cached_property
    def uses(self) -> list[int]:
        """How often each result is taken."""
        counts = [0] * len(self.operators)
        for operator in self.operators:
            for operand in operator.inputs:
                counts[operand.node] += 1
        counts[self.output.node] += 1
        return counts

    @cached_property
    def last_use(self) -> list[list[int]]:
        """After each operator, the results that nothing takes any more."""
        last = dict.fromkeys(range(len(self.operators)), 0)
        for place, operator in enumerate(self.operators):
            last[place] = place
            last |= dict.fromkeys((operand.node for operand in operator.inputs), place)
        last.pop(self.output.node)
        done: list[list[int]] = [[] for _ in self.operators]
        for node, place in last.items():
            done[place].append(node)
        return done

    @property
    def hidden(self) -> int:
        """How many numbers a sample is cut at thresholds by."""
        return sum(operator.size for operator in self.operators if isinstance(operator, Switch))

    @property
    def largest(self) -> int:
        """The numbers of a sample in the largest result."""
        return max(operator.size for operator in self.operators
                   if not isinstance(operator, Parameter))

    @property
    def widest(self) -> int:
        """The numbers of a sample at the operator that takes most, and gives."""
        def taken(operator: Operator) -> int:
            sizes = [len(operand.entries) if operand.entries is not None
                     else self.operators[operand.node].size for operand in operator.inputs]
            if isinstance(operator, Affine):
                sizes[0] = 0
            return operator.size + sum(sizes)

        return max(taken(operator) for operator in self.operators
                   if not isinstance(operator, Parameter))

    @property
    def total(self) -> int:
        """The numbers of a sample in all results together."""
        return sum(operator.size for operator in self.operators
                   if not isinstance(operator, Parameter))

    def fingerprint(self) -> bytes:
        """A hash of what is computed, all but the values of the parameters."""
        digest = hashlib.sha256()
        for operator in self.operators:
            digest.update(type(operator).__name__.encode())
            for field in fields(operator):
                _update(digest, getattr(operator, field.name))
        _update(digest, (self.output, self.groups, self.names, self.shape))
        return digest.digest()


def _update(digest: Any, value: object) -> None:
    """Hash a value: tensors by shape and content, anything else by its repr."""
    if isinstance(value, tuple):
        digest.update(f"tuple {len(value)}".encode())
        for part in value:
            _update(digest, part)
    elif isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    else:
        digest.update(repr(value).encode())


def run(program: Program, numbers: Numbers, x: Any, theta: Mapping[int, Any],
        codes: Mapping[int, Tensor], *, keep: Set[int] = frozenset(),
        decided: Callable[[int, Choice], None] | None = None,
        watch: Callable[[int, list[Any]], None] | None = None) -> dict[int, Any]:
    """Compute every result; return the output's and those to keep.

    Args:
        x: the sample, (F, n) in this arithmetic.
        theta: the parameters by their number, (F, 1) each.
        codes: what piecewise operators decided, by their place.
        decided: told what an operator without a code decides now.
        watch: told what goes into each operator.
    """
    results: dict[int, Any] = {}
    for place, operator in enumerate(program.operators):
        if isinstance(operator, Input):
            results[place] = x
        elif isinstance(operator, Parameter):
            results[place] = theta[operator.number]
        else:
            inputs = [results[node] if index is None else numbers.take(results[node], index)
                      for node, index in operator.inputs]
            if watch is not None:
                watch(place, inputs)
            code = codes.get(place)
            if operator.decides and code is None:
                choice = operator.decide(numbers, inputs)
                assert decided is not None
                decided(place, choice)
                code = choice.code
            results[place] = operator.forward(numbers, inputs, code)
        for node in program.last_use[place]:
            if node not in keep:
                del results[node]
    return results
