"""From any module to a program, through `torch.export`: what is computed, operator by operator.

The exported graph is what the module's own forward does, with hooks, wrappers and methods replaced
followed. It is walked with places instead of numbers (`layouts`), for a batch of two samples and
for one of three: the programs must be the same, or the module does something to samples that it
does not do to each alone.
"""

import logging
import operator as python_operator
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn

from fdimlib.building import Builder
from fdimlib.layers import NotReadable
from fdimlib.layouts import Mixed, Value, rows_by_sample
from fdimlib.lowering import HANDLERS, Lowering
from fdimlib.operators import Operand
from fdimlib.program import Program
from fdimlib.supported import COPIES, MOVES, Softened, Unsupported, refusal

BATCHES = (2, 3)
ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range",
              "sym_constrain_range_for_size")
"""What the tracer writes down for itself."""


class _Lost:
    """What cannot be used any more, or could not be read, and why."""

    def __init__(self, why: str):
        self.why = why


CHANGED = _Lost("takes a tensor that an operator in place has changed under another name; write "
                "that operator without the underscore")
UNREAD = _Lost("takes what cannot be read of an operator with several results")


def trace(model: nn.Module, shape: tuple[int, ...], counted: dict[str, nn.Parameter],
          head: str | None) -> Program:
    """The program of a module, on samples of a shape.

    Args:
        counted: the parameters that count, by name, in the order of θ.
        head: see `batch_functional_dimension`.

    Raises:
        TypeError: an operator is not supported; the message names it and its place.
        ValueError: samples are mixed.
    """
    exported = _export(model, shape)
    programs = [_Walk(exported, shape, counted, head, batch).program() for batch in BATCHES]
    first, second = programs
    if first.fingerprint() != second.fingerprint():
        raise ValueError(f"model: {Mixed()}")
    return first


def _export(model: nn.Module, shape: tuple[int, ...]) -> Any:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float64)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = torch.zeros(BATCHES[0], *shape, dtype=dtype, device=device)
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)  # torch logs what it raises
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's own use of its parts
            return torch.export.export(model, (example,), strict=False,
                                       dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as problem:  # whatever the module's forward, or the tracer, raises
        reason = str(problem).strip().split("\n")[0]
        raise NotReadable(
            f"model: {type(model).__name__} cannot be traced on samples of shape {shape} "
            f"({type(problem).__name__}: {reason}); torch.export must be able to follow its "
            "forward for any number of samples, x.shape[0] and not len(x), with no branch on "
            "numbers; method='svd' counts singular values of every module") from problem
    finally:
        logging.disable(disabled)


class _Walk:
    """One walk over the graph with some samples."""

    def __init__(self, exported: Any, shape: tuple[int, ...], counted: dict[str, nn.Parameter],
                 head: str | None, batch: int):
        self.exported, self.shape, self.counted, self.head = exported, shape, counted, head
        self.build = Builder(batch)
        self.lower = Lowering(self.build)
        self.found: dict[fx.Node, Any] = {}

    def program(self) -> Program:
        self._sources()
        for node in self.exported.graph.nodes:
            if node.op == "call_function":
                self.found[node] = self._call(node)
        return self._finish()

    def _sources(self) -> None:
        numbers = {id(p): number for number, p in enumerate(self.counted.values())}
        starts = [0]
        for p in self.counted.values():
            starts.append(starts[-1] + p.numel())
        values: dict[int, Value] = {}
        for node, spec in zip(
                (node for node in self.exported.graph.nodes if node.op == "placeholder"),
                self.exported.graph_signature.input_specs):
            if spec.kind.name == "USER_INPUT":
                self.found[node] = self.build.sample(self.shape)
                continue
            tensor = self._tensor(spec)
            number = numbers.get(id(tensor))
            if number is None:
                self.found[node] = tensor.detach() if isinstance(tensor, Tensor) else tensor
            else:
                if number not in values:
                    values[number] = self.build.parameter(tensor.shape, number, starts[number])
                self.found[node] = values[number]

    def _tensor(self, spec: Any) -> Any:
        if spec.target in self.exported.state_dict:
            return self.exported.state_dict[spec.target]
        return self.exported.constants.get(spec.target)

    def _call(self, node: Any) -> Any:
        def value_of(argument: Any) -> Any:
            if isinstance(argument, fx.Node):
                value = self.found[argument]
                if isinstance(value, _Lost):
                    raise NotReadable(refusal(node, value.why))
                return value
            return argument

        args = fx.node.map_aggregate(node.args, value_of)
        kwargs = fx.node.map_aggregate(node.kwargs, value_of)
        values: list[Value] = []
        fx.node.map_aggregate((args, kwargs), lambda value: values.append(value)
                              if isinstance(value, Value) else None)
        try:
            if node.target is python_operator.getitem:
                parts, number = args
                return parts[number] if number < len(parts) else UNREAD
            if not values:
                return node.target(*args, **kwargs)
            return self._lowered(node, args, dict(kwargs), values)
        except Unsupported as problem:
            raise NotReadable(refusal(node, str(problem))) from None
        except ValueError as problem:
            raise ValueError(refusal(node, str(problem))) from None

    def _lowered(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
                 values: list[Value]) -> Any:
        name = node.target.__name__.split(".")[0]
        in_place = name.endswith("_") and not name.startswith("_")
        name = name.removesuffix("_") if in_place else name
        if name in ASSERTIONS:
            return None
        if name == "sym_size":
            return args[0].places.shape[args[1]]
        if name in MOVES:
            return self._moved(node, name, args, kwargs, values)
        if name not in HANDLERS:
            raise Unsupported("is not supported")
        softened = [value for value in values if isinstance(value, Softened)]
        if softened:
            raise Unsupported("comes after a softmax, which is supported at the end only")
        result = HANDLERS[name](self.lower, *args, **kwargs)
        if in_place:
            self._replace(node.args[0], args[0], result)
        return result

    def _moved(self, node: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any],
               values: list[Value]) -> Any:
        """Numbers change places: the same is done to the places."""
        if len(values) > 1:
            raise Unsupported("moves numbers to where other numbers say")
        value, = values
        given = value.places.double().contiguous()
        args = fx.node.map_aggregate(args, lambda v: given if v is value else v)
        kwargs = fx.node.map_aggregate(kwargs, lambda v: given if v is value else v)
        places = node.target(*args, **kwargs)
        group = object() if name in COPIES else None
        if isinstance(places, Tensor):
            return value.moved(places, group)
        return tuple(value.moved(part, group) for part in places)

    def _replace(self, node: Any, old: Value, new: Value) -> None:
        """An operator in place: what else shares the storage is not what it was."""
        def shares(value: Any) -> bool:
            parts = value if isinstance(value, list | tuple) else [value]
            return any(isinstance(part, Value) and part.group is old.group for part in parts)

        for other, value in self.found.items():
            if other is not node and shares(value):
                self.found[other] = CHANGED
        self.found[node] = new

    def _finish(self) -> Program:
        output_node = next(node for node in self.exported.graph.nodes if node.op == "output")
        outputs = [self.found[node] if isinstance(node, fx.Node) else node
                   for node in output_node.args[0]]
        specs = self.exported.graph_signature.output_specs
        outputs = [value for value, spec in zip(outputs, specs) if spec.kind.name == "USER_OUTPUT"]
        if len(outputs) != 1 or not isinstance(outputs[0], Value) or not outputs[0].batched:
            raise TypeError("model: must give one tensor of shape (n, N_L) that depends on the "
                            f"sample; found {len(outputs)} outputs, or one that does not")
        value = outputs[0]
        table = value.places.reshape(len(value.places), -1)
        try:
            rows = rows_by_sample(value, table, self.build.batch)
        except ValueError as problem:
            raise ValueError(f"model: its output {problem}") from None
        if not torch.equal(rows.sample, torch.arange(self.build.batch)):
            raise ValueError(f"model: its output {Mixed()}")
        index = rows.entries[0]
        own = value.groups_of(table[0]) if isinstance(value, Softened) else None
        groups = None if self.head == "identity" else own
        if self.head == "softmax" and own is None:
            groups = torch.arange(len(index))[None]
        whole = len(index) == value.size and torch.equal(index, torch.arange(value.size))
        output = Operand(value.node) if whole else Operand(
            value.node, torch.where(index == value.size, -1, index))
        parameters = tuple(self.counted.values())
        return Program(tuple(self.build.operators), output, groups, own, tuple(self.counted),
                       parameters, sum(p.numel() for p in parameters if not p.requires_grad),
                       self.shape)
