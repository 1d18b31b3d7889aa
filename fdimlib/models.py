"""Any module: plain Sequentials directly, everything else by what `torch.export` sees of it.

A module that turns out to compute Linear, ReLU, …, Linear, whatever its layers are called, is given
as these layers, for which more is known.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fdimlib.affine import Affine
from fdimlib.arrays import finite, opened, to_float64
from fdimlib.bounded import BoundedNumbers
from fdimlib.exported import linear_layer
from fdimlib.layers import (
    SAMPLES,
    NotPlain,
    NotReadable,
    layer_name,
    refuse_reparameterised,
    refuse_shared_cells,
    refuse_wrappers,
)
from fdimlib.operators import Choice, Input, Operand, Operator, Parameter
from fdimlib.piecewise import Switch
from fdimlib.program import Program, run
from fdimlib.reading import Network, open_inputs, read_inputs, read_network
from fdimlib.tracing import trace
from fdimlib.validation import (
    found,
    has_float64,
    items,
    one_of,
    plain_type,
    require_denormals,
    type_name,
)


@dataclass(frozen=True)
class Columns:
    """Which parameters of a module count.

    Attributes:
        kept: whether each of them does, in the module's order.
        sizes: their numbers of entries.
    """

    kept: tuple[bool, ...]
    sizes: tuple[int, ...]

    @property
    def all(self) -> bool:
        return all(self.kept)

    @property
    def count(self) -> int:
        """P."""
        return sum(size for size, kept in zip(self.sizes, self.kept) if kept)

    @property
    def mask(self) -> Tensor:
        """Whether each entry counts."""
        return torch.tensor(self.kept).repeat_interleave(torch.tensor(self.sizes))


def columns_of(model: nn.Module, parameters: str | Sequence[str]) -> Columns:
    """Read the argument `parameters`: "all", "trainable", or names."""
    named = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    if isinstance(parameters, str):
        one_of("parameters", parameters, ("all", "trainable"))
        chosen = {name for name, p in named.items() if parameters == "all" or p.requires_grad}
    else:
        listed = items("parameters", parameters, "['0.weight', '0.bias']")
        unknown = [name for name in listed if not isinstance(name, str) or name not in named]
        if unknown and named:
            shown = f"{', '.join(list(named)[:12])}{', …' if len(named) > 12 else ''}"
            raise ValueError(f"parameters: {found(unknown[0])}, which names none; "
                             f"the model has {shown}")
        chosen = set(listed)
    sizes = (0 if isinstance(p, nn.UninitializedParameter) else p.numel() for p in named.values())
    return Columns(tuple(name in chosen for name in named), tuple(sizes))


Prepared = Callable[[Network | Program, int], None]
"""Told what was read and how many samples there are, before these are converted."""


class Reading(NamedTuple):
    """A network and a sample for it.

    Attributes:
        network: its layers, or what it computes.
        x: (n, N_0) float64.
    """

    network: Network | Program
    x: Tensor


def read(model: nn.Module, x: Tensor | ArrayLike, head: str | None = None,
         parameters: str | Sequence[str] = "all", prepared: Prepared | None = None) -> Reading:
    """Read a module and a sample.

    Args:
        parameters: which of them count; see `batch_functional_dimension`.

    Raises:
        TypeError: an operator that cannot be read, with its name and place.
        ValueError: samples are mixed, or numbers are NaN or infinite.
    """
    one_of("head", head, ("identity", "softmax", None))
    columns = columns_of(model, parameters)
    try:
        network = read_network(model, head)
        sample = open_inputs(network, x)
        if columns.all:
            if prepared is not None:
                prepared(network, len(sample))
            return Reading(network, read_inputs(network, sample))
    except NotPlain:
        sample = open_sample(x)
    return _read_traced(model, sample, head, columns, prepared)


def _read_traced(model: nn.Module, sample: Tensor | np.ndarray, head: str | None,
                 columns: Columns, prepared: Prepared | None) -> Reading:
    refuse_unusable(model)
    counted = {name: p for (name, p), kept in zip(model.named_parameters(), columns.kept) if kept}
    try:
        program = trace(model, tuple(sample.shape[1:]), counted, head)
    except TypeError:
        refuse_reparameterised(model)
        raise
    linears = _as_linears(program) if columns.all else None
    network: Network | Program = program
    if linears is not None:
        layers = [layer for linear in linears for layer in (linear, nn.ReLU())]
        network = Network(linears, program.head, nn.Sequential(*layers[:-1]))
    if prepared is not None:
        prepared(network, len(sample))
    converted = convert_sample(sample)
    refuse_other_output(model, program, converted[:SAMPLES])
    return Reading(network, converted.reshape(len(converted), -1))


def open_sample(x: Tensor | ArrayLike) -> Tensor | np.ndarray:
    """The sample as it is, nothing converted."""
    sample = opened("x", x)
    shape = tuple(sample.shape)
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"x: found shape {shape}; give a non-empty sample of shape (n, …), as the "
                         "model takes it")
    return sample


def convert_sample(sample: Tensor | np.ndarray) -> Tensor:
    """In float64, exactly."""
    converted = to_float64("x", sample)
    finite(converted, "x")
    return converted


def precision(model: nn.Module) -> torch.dtype:
    """The one dtype of all parameters, in which floating point computes."""
    dtypes = {p.dtype for p in model.parameters()} or {torch.float64}
    if len(dtypes) > 1:
        raise TypeError(f"model: found parameters of dtype {', '.join(sorted(map(str, dtypes)))}; "
                        "floating point needs one: model.double(), say")
    return dtypes.pop()


def refuse_unusable(model: nn.Module) -> None:
    """Refuse parameters and buffers that are no ordinary finite numbers."""
    refuse_wrappers(model)
    require_denormals()
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.lazy.LazyModuleMixin):
            if module.has_uninitialized_params():  # type: ignore[misc]
                raise TypeError(f"model: {name or 'it'} is a {layer_name(module)} without values "
                                "yet; call the model once on a sample, which initialises it")
    named = [*model.named_parameters(), *model.named_buffers()]
    for name, p in named:
        what = f"model: {name}"
        if p.device.type == "meta":
            raise TypeError(f"{what} is on the meta device, which has shapes and no values; "
                            "make it real (model.to_empty(device='cpu')) and load its values")
        if not plain_type(p):
            raise TypeError(f"{what} is a {type_name(p)} of dtype {p.dtype}, layout {p.layout}; "
                            "use an ordinary dense tensor")
        if isinstance(p, nn.Parameter) and not p.is_floating_point():
            raise TypeError(f"{what} has dtype {p.dtype}; use a float dtype")
        if p.is_floating_point():
            finite(p, what)
    devices = sorted({str(p.device) for _, p in named})
    if len(devices) > 1:
        raise ValueError(f"model: its parameters lie on {' and '.join(devices)}; "
                         f"move it to one device: model.to({devices[0]!r})")
    refuse_shared_cells([p for p in model.parameters() if p.numel()])


def device_of_model(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def replaced_tensors(model: nn.Module, values: Mapping[int, Tensor]) -> Iterator[None]:
    """With other tensors in place of parameters and buffers, by the identity of these.

    `torch.func.functional_call` leaves its own tensors behind in a module that is used twice.
    """
    held: list[tuple[dict[str, Any], str, Any]] = []
    for module in set(model.modules()):
        parts: list[dict[str, Any]] = [module._parameters, module._buffers]
        for tensors in parts:
            held += [(tensors, key, tensor) for key, tensor in tensors.items()
                     if id(tensor) in values]
    try:
        for tensors, key, tensor in held:
            tensors[key] = values[id(tensor)]
        yield
    finally:
        for tensors, key, tensor in held:
            tensors[key] = tensor


@torch.no_grad()
def refuse_other_output(model: nn.Module, program: Program, x: Tensor) -> None:
    """Raise TypeError unless the module's own output is the program's, up to rounding, at x.

    What is traced is what is computed; but a module may do something else next time.
    """
    device = device_of_model(model)
    if not has_float64(device):
        device = torch.device("cpu")
    numbers = {id(t): t.detach().to(device, torch.float64)
               for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    try:
        with replaced_tensors(model, numbers):
            own = model(x.to(device)).cpu().double().reshape(len(x), -1)
    except Exception as problem:
        raise NotReadable(f"model: cannot be called on inputs of shape {tuple(x.shape)} in float64 "
                          f"({type(problem).__name__}: {problem}); does it fix a precision?"
                          ) from problem
    arithmetic = BoundedNumbers(x.device)
    theta = {number: arithmetic.constant(p.detach().double().cpu().reshape(-1, 1))
             for number, p in enumerate(program.tensors)}
    guessed: dict[int, Choice] = {}  # signs as floating point has them
    flat = x.reshape(len(x), -1).T.contiguous()
    results = run(program, arithmetic, arithmetic.constant(flat), theta, {},
                  decided=lambda place, choice: guessed.__setitem__(place, choice))
    found = results[program.output.node]
    if program.output.entries is not None:
        found = arithmetic.take(found, program.output.entries)
    ours, allowed = found.value.T, 4 * found.error.T
    candidates = [ours]
    if program.softened is not None:
        allowed = allowed.amax(dim=1, keepdim=True)
        places = program.softened.reshape(1, -1).expand(len(ours), -1)
        candidates = [ours.scatter(1, places, function(ours[:, program.softened], -1).flatten(1))
                      for function in (torch.softmax, torch.log_softmax)]
    allowed = allowed + 1e-4 * ours.abs().max()
    same = [candidate.shape == own.shape
            and bool((((own - candidate).abs() <= allowed) | ~torch.isfinite(allowed)).all())
            for candidate in candidates]
    if not any(same):
        raise TypeError("model: its output is not what was traced, on the samples given; does its "
                        "forward depend on numbers, on chance, or on what was called before?")


def _as_linears(program: Program) -> tuple[nn.Linear, ...] | None:
    """The layers of a program that is Linear, ReLU, …, Linear on one vector; else None."""
    chain = [(place, operator) for place, operator in enumerate(program.operators)
             if not isinstance(operator, Parameter)]
    groups = program.groups
    whole = groups is None or groups.tolist() == [list(range(program.entries))]
    if program.output != Operand(chain[-1][0]) or len(chain) % 2 or not whole:
        return None
    if set(program.uses) != {1} or not isinstance(chain[0][1], Input):
        return None
    linears: list[nn.Linear] = []
    taken: list[Operator] = []
    for (before, _), (_, operator) in pairwise(chain):
        place = 1 if isinstance(operator, Affine) else 0
        if operator.inputs[place : place + 1] != (Operand(before),):
            return None
        if len(taken) % 2 == 0 and isinstance(operator, Affine):
            linear = _as_linear(program, operator)
            if linear is None:
                return None
            linears.append(linear)
        elif not (len(taken) % 2 and isinstance(operator, Switch) and operator.is_relu):
            return None
        taken.append(operator)
    in_order = [p for linear in linears for p in linear.parameters()]
    same = [a is b for a, b in zip(in_order, program.tensors)]
    return tuple(linears) if len(in_order) == len(program.tensors) and all(same) else None


def _as_linear(program: Program, operator: Affine) -> nn.Linear | None:
    """The layer of an affine operator, if its weight and bias are parameters as they are."""
    nodes = [program.operators[node] for node, _ in operator.inputs]
    parts = [nodes[0], *nodes[2:]]
    plain = all(index is None for _, index in operator.inputs)
    if not plain or operator.shape[0] * operator.shape[3] != 1:
        return None
    numbers = [part.number for part in parts if isinstance(part, Parameter)]
    if len(numbers) < len(parts):
        return None
    weight, *bias = (program.tensors[number] for number in numbers)
    if weight.dim() != 2:
        return None
    return linear_layer(weight, bias[0] if bias else None, "model")
