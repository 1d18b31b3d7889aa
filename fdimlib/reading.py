"""Reading: from a torch module to the layers that the rank works on, from any array to a sample.

A network is an ordinary `torch.nn.Sequential` of `nn.Linear` and `nn.ReLU`, with an optional
leading `nn.Flatten` and final `nn.Softmax`. What else a Sequential can hold is refused: the rank of
other layers would be silently wrong.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fdimlib.validation import finite, one_of, real_array, require_denormals

Positioned = list[tuple[int, nn.Module]]
"""Layers, each with its position in the Sequential."""


@dataclass(frozen=True)
class Network:
    """The layers of a Sequential, as it holds them; `linears[l].weight` is (N_{l+1}, N_l)."""

    linears: tuple[nn.Linear, ...]
    head: str

    @property
    def widths(self) -> list[int]:
        return [self.linears[0].in_features, *(layer.out_features for layer in self.linears)]

    @property
    def parameters(self) -> int:
        """P: weights and biases, all of them, frozen ones included."""
        return sum(p.numel() for layer in self.linears for p in layer.parameters())

    @property
    def hidden(self) -> int:
        """H: the number of hidden neurons."""
        return sum(self.widths[1:-1])

    @property
    def outputs(self) -> int:
        """The most that one sample can add to the rank: N_L, or N_L − 1 with softmax."""
        return self.widths[-1] - (self.head == "softmax")

    def affine(self, device: torch.device | None = None) -> list[tuple[Tensor, Tensor | None]]:
        """(weight, bias) of each layer in float64, which holds every floating dtype exactly."""
        def exact(t: Tensor) -> Tensor:
            return t.detach().to(device or t.device, torch.float64)

        return [(exact(layer.weight), None if layer.bias is None else exact(layer.bias))
                for layer in self.linears]


def read_network(model: nn.Module, head: str | None = None) -> Network:
    """Check that `model` is a network this library understands, and return its layers.

    Raises:
        TypeError: not a Sequential, or a layer that is not Linear, ReLU, leading Flatten or final
            Softmax.
        ValueError: layers in the wrong order, widths that do not fit, shared parameters, NaN or
            infinite parameters.
    """
    one_of("head", head, ("identity", "softmax", None))
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise TypeError(
            f"model: found {type(model).__name__}, not a torch.nn.Sequential; "
            "write it as nn.Sequential(nn.Linear(...), nn.ReLU(), ..., nn.Linear(...))"
        )
    require_denormals()
    _refuse_hooks(model)
    layers = list(enumerate(model))
    layers = _without_flatten(layers)
    layers, ends_in_softmax = _without_softmax(layers)
    linears = _alternating_linears(layers)
    _refuse_shared_parameters(linears)
    return Network(linears, head or ("softmax" if ends_in_softmax else "identity"))


def _refuse_hooks(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise TypeError(f"model: {type(module).__name__} {name or 'itself'} has a forward "
                            "hook, which may change its output; remove the hook first")


def _without_flatten(layers: Positioned) -> Positioned:
    """The layers after a leading Flatten that keeps the samples apart."""
    if not layers or type(layers[0][1]) is not nn.Flatten:
        return layers
    flatten = layers[0][1]
    if (flatten.start_dim, flatten.end_dim) != (1, -1):
        raise ValueError(f"model: Flatten(start_dim={flatten.start_dim}, "
                         f"end_dim={flatten.end_dim}) at position 0; "
                         "use Flatten(), which keeps the samples apart")
    return layers[1:]


def _without_softmax(layers: Positioned) -> tuple[Positioned, bool]:
    """The layers before a final Softmax over the outputs, and whether there was one."""
    if not layers or type(layers[-1][1]) is not nn.Softmax:
        return layers, False
    softmax = layers[-1][1]
    if softmax.dim not in (1, -1, None):
        raise ValueError(f"model: Softmax(dim={softmax.dim}) mixes samples; use Softmax(dim=1)")
    return layers[:-1], True


def _alternating_linears(layers: Positioned) -> tuple[nn.Linear, ...]:
    """The Linear layers of Linear, ReLU, …, Linear whose widths fit; anything else is refused."""
    for position, layer in layers:
        _check_layer(position, layer)
    for order, (position, layer) in enumerate(layers):
        if type(layer) is not (nn.Linear if order % 2 == 0 else nn.ReLU):
            raise ValueError(f"model: unexpected {type(layer).__name__} at position {position}; "
                             "Linear and ReLU layers must alternate, beginning and ending with "
                             "Linear")
    if not layers:
        raise ValueError("model: found no Linear layer")
    if len(layers) % 2 == 0:
        raise ValueError(f"model: ends in ReLU at position {layers[-1][0]}; "
                         "the output layer must be Linear")
    linears = [(position, layer) for position, layer in layers if isinstance(layer, nn.Linear)]
    for (_, before), (position, layer) in pairwise(linears):
        if before.out_features != layer.in_features:
            raise ValueError(f"model: Linear at position {position} takes {layer.in_features} "
                             f"inputs, but the layer before gives {before.out_features}")
    return tuple(layer for _, layer in linears)


def _check_layer(position: int, layer: nn.Module) -> None:
    name = type(layer).__name__
    if type(layer) not in (nn.Linear, nn.ReLU):
        raise TypeError(f"model: unsupported layer {name} at position {position}; supported are "
                        "Linear and ReLU, a leading Flatten and a final Softmax")
    extra = set(dict(layer.named_parameters())) - {"weight", "bias"}
    if extra:
        raise TypeError(f"model: {name} at position {position} is reparameterised "
                        f"({', '.join(sorted(extra))}); make its weight an ordinary parameter "
                        "first")
    for key in ("weight", "bias"):
        if getattr(layer, key, None) is not None and key not in dict(layer.named_parameters()):
            raise TypeError(f"model: {key} of {name} at position {position} is not a parameter; "
                            "make it an nn.Parameter")
    for key, value in layer.named_parameters():
        if not value.is_floating_point():
            raise TypeError(f"model: {key} of {name} at position {position} has dtype "
                            f"{value.dtype}; use a float dtype")
        finite(value, f"model: {key} of {name} at position {position}")


def _refuse_shared_parameters(linears: tuple[nn.Linear, ...]) -> None:
    """Also those that overlap in memory: moving one entry would move both."""
    spans = sorted((p.data_ptr(), p.data_ptr() + p.nbytes)
                   for layer in linears for p in layer.parameters())
    if any(end > start for (_, end), (start, _) in pairwise(spans)):
        raise ValueError("model: two layers share a parameter; the rank counts parameters as "
                         "independent, so copy the shared layer (copy.deepcopy)")


def read_inputs(network: Network, x: Tensor | ArrayLike) -> Tensor:
    """The sample as a float64 tensor (n, N_0); pixels and lower precisions are not rounded.

    Raises:
        ValueError: empty, of the wrong width, or holding NaN or infinity (the first is named).
    """
    sample, width = real_array("x", x), network.widths[0]
    shape = tuple(sample.shape)
    if sample.dim() < 2 or shape[0] == 0:
        raise ValueError(f"x: found shape {shape}; give a non-empty sample of shape (n, {width})")
    if math.prod(shape[1:]) != width:
        raise ValueError(f"x: found shape {shape}, {math.prod(shape[1:])} values a sample; "
                         f"the first layer takes {width}: give shape (n, {width})")
    sample = sample.reshape(len(sample), width)
    finite(sample, "x")
    return sample
