"""Reading: from a torch module to the layers that the rank works on, from any array to a sample.

A network is an ordinary `torch.nn.Sequential` of `nn.Linear` and `nn.ReLU`, with an optional
leading `nn.Flatten` and final `nn.Softmax`. What else a Sequential can hold is refused: the rank of
other layers would be silently wrong. So is a module that does not compute what its type says
(`layers`).
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fdimlib.arrays import finite, float64, opened, to_float64
from fdimlib.layers import (
    SAMPLES,
    NotPlainType,
    NotPlainValue,
    check_parameters,
    layer_name,
    probes,
    refuse_changed_modules,
    refuse_other_function,
    refuse_other_modules,
    refuse_shared_cells,
)
from fdimlib.validation import one_of, require_denormals

Positioned = list[tuple[int, nn.Module]]
"""Layers, each with its position in the Sequential."""


@dataclass(frozen=True)
class Network:
    """The layers of a Sequential, as it holds them; `linears[l].weight` is (N_{l+1}, N_l)."""

    linears: tuple[nn.Linear, ...]
    head: str
    model: nn.Sequential = field(repr=False)

    @property
    def widths(self) -> list[int]:
        """(N_0, …, N_L), by the weights."""
        shapes = [layer.weight.shape for layer in self.linears]
        return [shapes[0][1], *(shape[0] for shape in shapes)]

    @property
    def parameters(self) -> int:
        """P: weights and biases, all of them, frozen ones included."""
        return sum(p.numel() for layer in self.linears for p in layer.parameters())

    @property
    def frozen(self) -> int:
        """How many of the P parameters have `requires_grad=False`."""
        return sum(p.numel() for layer in self.linears for p in layer.parameters()
                   if not p.requires_grad)

    @property
    def hidden(self) -> int:
        """H: the number of hidden neurons."""
        return sum(self.widths[1:-1])

    @property
    def outputs(self) -> int:
        """The most that one sample can add to the rank: N_L, or N_L − 1 with softmax."""
        return self.widths[-1] - (self.head == "softmax")

    @property
    def device(self) -> torch.device:
        return self.linears[0].weight.device

    def affine(self, device: torch.device | None = None) -> list[tuple[Tensor, Tensor | None]]:
        """(weight, bias) of each layer in float64, which holds every floating dtype exactly."""
        def exact(t: Tensor) -> Tensor:
            return float64(t) if device is None else float64(t).to(device)

        return [(exact(layer.weight), None if layer.bias is None else exact(layer.bias))
                for layer in self.linears]

    def dtype(self) -> torch.dtype:
        """The one precision of all parameters, in which floating point computes.

        Raises:
            TypeError: there are several, or torch does not compute in it.
        """
        dtypes = {p.dtype for layer in self.linears for p in layer.parameters()}
        computing = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
        if len(dtypes) > 1 or not dtypes <= set(computing):
            found = ", ".join(sorted(map(str, dtypes)))
            raise TypeError(f"model: found parameters of dtype {found}; floating point needs one, "
                            "float16 or more: model.double(), say")
        return dtypes.pop()


def read_network(model: nn.Module, head: str | None = None) -> Network:
    """Check that `model` is a network this library understands, and return its layers.

    Raises:
        TypeError: not a Sequential, a layer that is not Linear, ReLU, leading Flatten or final
            Softmax, or one that does not compute what its type says.
        ValueError: layers in the wrong order, widths that do not fit, shared parameters, NaN or
            infinite parameters, layers on several devices.
    """
    one_of("head", head, ("identity", "softmax", None))
    refuse_other_modules(model)
    assert isinstance(model, nn.Sequential)
    require_denormals()
    refuse_changed_modules(model)
    layers = list(enumerate(model))
    layers = _without_flatten(layers)
    layers, ends_in_softmax = _without_softmax(layers)
    linears = _alternating_linears(layers)
    if own := [name for name, _ in model.named_parameters(recurse=False)]:
        raise NotPlainType(f"model: has parameters {', '.join(own)} beside its layers, which no "
                           "layer uses; remove them, so that they are not counted")
    devices = sorted({str(p.device) for layer in linears for p in layer.parameters()})
    if len(devices) > 1:
        raise ValueError(f"model: its layers lie on {' and '.join(devices)}; "
                         f"move it to one device: model.to({devices[0]!r})")
    refuse_shared_cells([p for layer in linears for p in layer.parameters()])
    refuse_other_function(model, linears, probes(linears[0].weight.shape[1]))
    return Network(linears, head or ("softmax" if ends_in_softmax else "identity"), model)


def _without_flatten(layers: Positioned) -> Positioned:
    """The layers after a leading Flatten that keeps the samples apart."""
    if not layers or type(layers[0][1]) is not nn.Flatten:
        return layers
    flatten = layers[0][1]
    if (flatten.start_dim, flatten.end_dim) != (1, -1):
        raise NotPlainValue(f"model: Flatten(start_dim={flatten.start_dim}, "
                         f"end_dim={flatten.end_dim}) at position 0; "
                         "use Flatten(), which keeps the samples apart")
    check_parameters(*layers[0])
    return layers[1:]


def _without_softmax(layers: Positioned) -> tuple[Positioned, bool]:
    """The layers before a final Softmax over the outputs, and whether there was one."""
    if not layers or type(layers[-1][1]) is not nn.Softmax:
        return layers, False
    softmax = layers[-1][1]
    if softmax.dim not in (1, -1, None):
        raise NotPlainValue(f"model: Softmax(dim={softmax.dim}) mixes samples; use Softmax(dim=1)")
    check_parameters(*layers[-1])
    return layers[:-1], True


def _alternating_linears(layers: Positioned) -> tuple[nn.Linear, ...]:
    """The Linear layers of Linear, ReLU, …, Linear whose widths fit; anything else is refused."""
    for position, layer in layers:
        if type(layer) not in (nn.Linear, nn.ReLU):
            raise NotPlainType(f"model: unsupported layer {layer_name(layer)} at position "
                               f"{position}; supported are torch.nn.Linear and torch.nn.ReLU, a "
                               "leading Flatten and a final Softmax")
        check_parameters(position, layer)
    for order, (position, layer) in enumerate(layers):
        if type(layer) is not (nn.Linear if order % 2 == 0 else nn.ReLU):
            raise NotPlainValue(f"model: unexpected {type(layer).__name__} at position {position}; "
                             "Linear and ReLU layers must alternate, beginning and ending with "
                             "Linear")
    if not layers:
        raise NotPlainValue("model: found no Linear layer")
    if len(layers) % 2 == 0:
        raise NotPlainValue(f"model: ends in ReLU at position {layers[-1][0]}; "
                         "the output layer must be Linear")
    linears = [(position, layer) for position, layer in layers if isinstance(layer, nn.Linear)]
    for (_, before), (position, layer) in pairwise(linears):
        given, taken = before.weight.shape[0], layer.weight.shape[1]
        if given != taken:
            raise ValueError(f"model: Linear at position {position} takes {taken} "
                             f"inputs, but the layer before gives {given}")
    return tuple(layer for _, layer in linears)


def open_inputs(network: Network, x: Tensor | ArrayLike) -> Tensor | np.ndarray:
    """The sample as it is, (n, N_0), nothing converted: its size is known before it is copied.

    Raises:
        ValueError: no real numbers, empty, or of the wrong width.
    """
    sample, width = opened("x", x), network.widths[0]
    shape = tuple(sample.shape)
    if len(shape) < 2 or shape[0] == 0:
        raise ValueError(f"x: found shape {shape}; give a non-empty sample of shape (n, {width})")
    if math.prod(shape[1:]) != width:
        over_a_sequence = len(shape) > 2 and shape[-1] == width
        raise (NotPlainValue if over_a_sequence else ValueError)(
            f"x: found shape {shape}, {math.prod(shape[1:])} values a sample; "
            f"the first layer takes {width}: give shape (n, {width})")
    return sample.reshape(len(sample), width)


def read_inputs(network: Network, x: Tensor | ArrayLike) -> Tensor:
    """The sample as a float64 tensor (n, N_0); pixels and lower precisions are not rounded.

    Raises:
        ValueError: empty, of the wrong width, or holding NaN or infinity (the first is named).
        TypeError: the network computes something else than its layers at the first samples.
    """
    sample = to_float64("x", open_inputs(network, x))
    finite(sample, "x")
    refuse_other_function(network.model, network.linears, sample[:SAMPLES])
    return sample
