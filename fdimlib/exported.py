"""The layers of an exported program, from its JSON: a chain of flatten, linear, relu, softmax.

In a chain each operator takes what the one before it gives. Any other operator is refused by name,
and so is whatever else would make the layers another function than the program: other arguments,
other inputs or outputs. Parameters that no operator takes are refused because they would not count.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def linear_layer(weight: Tensor, bias: Tensor | None, where: str) -> nn.Linear:
    """A Linear with these parameters, (N_out, N_in) and (N_out,); errors begin with `where`."""
    if weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = [tuple(t.shape) for t in (weight, bias) if t is not None]
        raise ValueError(f"{where}: found weight and bias of shapes {', '.join(map(str, shapes))}; "
                         "they must be (outputs, inputs) and (outputs,)")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = _as_parameter(weight)
    if bias is not None:
        layer.bias = _as_parameter(bias)
    return layer


def _as_parameter(t: Tensor) -> nn.Parameter:
    return t if isinstance(t, nn.Parameter) else nn.Parameter(t, t.is_floating_point())


def _linear(weight: nn.Parameter, bias: nn.Parameter | None = None) -> nn.Linear:
    return linear_layer(weight, bias, "model: aten.linear")


def _flatten(start_dim: int = 0, end_dim: int = -1) -> nn.Flatten:
    return nn.Flatten(start_dim, end_dim)


@dataclass(frozen=True)
class Operator:
    """How a node of the program becomes a layer.

    Attributes:
        data: the argument that carries the data; every other one goes to `layer`.
        options, parameters: the other arguments that are supported: numbers, and parameters.
        layer: makes the layer from them.
    """

    layer: Callable[..., nn.Module]
    data: str = "self"
    options: Set[str] = frozenset()
    parameters: Set[str] = frozenset()


OPERATORS = {
    "aten.flatten.using_ints": Operator(_flatten, options={"start_dim", "end_dim"}),
    "aten.linear.default": Operator(_linear, data="input", parameters={"weight", "bias"}),
    "aten.relu.default": Operator(nn.ReLU),
    "aten.relu_.default": Operator(nn.ReLU),  # in place: the same function, in a chain
    "aten.softmax.int": Operator(nn.Softmax, options={"dim"}),
}


def chain(program: dict[str, Any], parameter: Callable[[str], nn.Parameter]) -> list[nn.Module]:
    """The layers of a program, in order.

    Args:
        program: the JSON of an exported graph module (torch._export.serde.schema.GraphModule).
        parameter: gives a parameter by its name in the module.

    Raises:
        ValueError: not a chain of `OPERATORS`.
    """
    data, names = _inputs(program["signature"]["input_specs"])
    layers: list[nn.Module] = []
    used = set()
    for node in program["graph"]["nodes"]:
        operator, arguments = _operator(node, data)
        for argument in operator.parameters & set(arguments):
            name = arguments[argument]
            if name not in names:
                raise ValueError(f"{_where(node)} takes as {argument} what is not a parameter")
            arguments[argument] = parameter(names[name])
            used.add(_place(arguments[argument]))
        layers.append(operator.layer(**arguments))
        data = node["outputs"][0]["as_tensor"]["name"]
    if program["graph"]["outputs"] != [{"as_tensor": {"name": data}}]:
        raise ValueError("model: its program gives more, or other, than its last operator does")
    unused = [name for name in names.values() if _place(parameter(name)) not in used]
    if unused:
        raise ValueError(f"model: no operator takes the parameters {', '.join(unused)}; "
                         "remove them before exporting, so that they are not counted")
    return layers


def _place(t: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    """Where a tensor lies in memory: a parameter may have several names, and be used by one."""
    return t.data_ptr(), t.shape, t.stride()


def _inputs(specs: list[dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """The program's one input of data, and its parameters: name in the graph → in the module."""
    data, names = [], {}
    for spec in specs:
        (kind, content), = spec.items()
        if kind == "user_input":
            data.append(_value(content["arg"]))
        elif kind == "parameter":
            names[content["arg"]["name"]] = content["parameter_name"]
        else:
            raise ValueError(f"model: its program takes a {kind.replace('_', ' ')}; only "
                             "parameters and one input can be read from an archive")
    if len(data) != 1:
        raise ValueError(f"model: its program takes {len(data)} inputs; give one of one input")
    return data[0], names


def _operator(node: dict[str, Any], data: str) -> tuple[Operator, dict[str, Any]]:
    """The operator of a node, and its arguments but for the data, which must be as named."""
    name = node["target"].removeprefix("torch.ops.")
    if name not in OPERATORS:
        raise ValueError(f"{_where(node)} cannot be read from an archive; "
                         f"what can is a chain of {', '.join(OPERATORS)}")
    operator = OPERATORS[name]
    arguments = {given["name"]: _value(given["arg"]) for given in node["inputs"]}
    if arguments.pop(operator.data) != data:
        raise ValueError(f"{_where(node)} does not take what the operator before it gives; "
                         "only a chain can be read from an archive")
    arguments = {name: value for name, value in arguments.items() if value is not None}
    unknown = set(arguments) - operator.options - operator.parameters
    if unknown:
        raise ValueError(f"{_where(node)} has the argument {min(unknown)}, which is not supported")
    return operator, arguments


def _where(node: dict[str, Any]) -> str:
    return f"model: operator {node['target'].removeprefix('torch.ops.')} (node {node['name']})"


def _value(argument: dict[str, Any]) -> Any:
    """A tensor's name, a number, or None."""
    (kind, content), = argument.items()
    if kind == "as_tensor":
        return content["name"]
    return None if kind == "as_none" else content
