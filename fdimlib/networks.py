"""Networks: making one, reading a torch Sequential, the bounds and the symmetries of its parameters.

A network is an ordinary `torch.nn.Sequential` of `nn.Linear` and `nn.ReLU`, with an optional leading `nn.Flatten` and
final `nn.Softmax`. What else a Sequential can hold is refused: the rank of other layers would be silently wrong.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fdimlib.validation import finite, one_of, real_array, require_denormals, whole_number


@dataclass(frozen=True)
class Network:
    """The layers of a Sequential, as it holds them: `linears[l].weight` has shape (N_{l+1}, N_l)."""

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

    def bound(self, n: int | None = None) -> int:
        """See `dimension_bound`."""
        free = self.parameters - self.hidden
        if self.head == "softmax":
            free -= self.widths[-2] + (self.linears[-1].bias is not None)
        return free if n is None else min(n * self.outputs, free)

    def affine(self, device=None) -> list[tuple[Tensor, Tensor | None]]:
        """(weight, bias) of each layer in float64, which holds every floating dtype exactly."""
        def exact(t):
            return None if t is None else t.detach().to(device or t.device, torch.float64)

        return [(exact(layer.weight), exact(layer.bias)) for layer in self.linears]


@torch.no_grad()
def round_to_grid_(parameters: Iterable[Tensor]) -> None:
    """Round to multiples of 2^-26, in place, so that the same seed gives the same bits on every machine.

    Processors and libraries sum in different orders and so disagree in the last bits; measured: by 1e-18 in a step of training,
    on average. Training amplifies that until ranks differ. Rounded away after every step, it survives only near a tie, which
    680 epochs of 784-30-30-30-10 are expected to meet 1e-3 times. The grid is as fine as float32 between ⅛ and ¼.
    """
    for p in parameters:
        p.copy_((p.double() * 2.0**26).round_() * 2.0**-26)


def relu_mlp(widths: Sequence[int], *, seed: int = 0, bias_std: float = 0.0) -> nn.Sequential:
    """A fully connected ReLU network with Glorot-uniform weights, in float64, rounded to multiples of 2^-26.

    Args:
        widths: (N_0, …, N_L), input width first.
        seed: the weights depend on nothing else.
        bias_std: standard deviation of Gaussian biases; 0 gives the zero biases of the paper's protocol.

    >>> relu_mlp([784, 30, 30, 30, 10], seed=0)[0].weight.shape
    torch.Size([30, 784])
    """
    if len(widths) < 2:
        raise ValueError(f"widths: found {list(widths)}; give at least two positive integers, e.g. [784, 30, 10]")
    widths = [whole_number("widths", width, 1) for width in widths]
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)  # leaves torch's global seed alone
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.normal_(linear.bias, std=bias_std, generator=generator)
        round_to_grid_(linear.parameters())
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def read_network(model: nn.Sequential, head: str | None = None) -> Network:
    """Check that `model` is a network this library understands, and return its layers.

    Raises:
        TypeError: not a Sequential, or a layer that is not Linear, ReLU, leading Flatten or final Softmax.
        ValueError: layers in the wrong order, widths that do not fit, shared parameters, NaN or infinite parameters.
    """
    one_of("head", head, ("identity", "softmax", None))
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise TypeError(
            f"model: found {type(model).__name__}, not a torch.nn.Sequential; "
            "write it as nn.Sequential(nn.Linear(...), nn.ReLU(), ..., nn.Linear(...))"
        )
    require_denormals()
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise TypeError(f"model: {type(module).__name__} {name or 'itself'} has a forward hook, which may "
                            "change its output; remove the hook first")
    layers = list(enumerate(model))
    if layers and type(layers[0][1]) is nn.Flatten:
        flatten, layers = layers[0][1], layers[1:]
        if (flatten.start_dim, flatten.end_dim) != (1, -1):
            raise ValueError(f"model: Flatten(start_dim={flatten.start_dim}, end_dim={flatten.end_dim}) at position 0; "
                             "use Flatten(), which keeps the samples apart")
    ends_in_softmax = bool(layers) and type(layers[-1][1]) is nn.Softmax
    if ends_in_softmax:
        if layers[-1][1].dim not in (1, -1, None):
            raise ValueError(f"model: Softmax(dim={layers[-1][1].dim}) mixes samples; use Softmax(dim=1)")
        layers = layers[:-1]
    for position, layer in layers:
        _check_layer(position, layer)
    for order, (position, layer) in enumerate(layers):
        if type(layer) is not (nn.Linear if order % 2 == 0 else nn.ReLU):
            raise ValueError(f"model: unexpected {type(layer).__name__} at position {position}; "
                             "Linear and ReLU layers must alternate, beginning and ending with Linear")
    linears = tuple(layer for _, layer in layers[::2])
    if len(layers) % 2 == 0:
        raise ValueError("model: found no Linear layer" if not layers else
                         f"model: ends in ReLU at position {layers[-1][0]}; the output layer must be Linear")
    for before, (position, layer) in zip(linears, layers[2::2]):
        if before.out_features != layer.in_features:
            raise ValueError(f"model: Linear at position {position} takes {layer.in_features} inputs, "
                             f"but the layer before gives {before.out_features}")
    spans = sorted((p.data_ptr(), p.data_ptr() + p.nbytes) for layer in linears for p in layer.parameters())
    if any(end > start for (_, end), (start, _) in pairwise(spans)):
        raise ValueError("model: two layers share a parameter; the rank counts parameters as independent, "
                         "so copy the shared layer (copy.deepcopy)")
    return Network(linears, head or ("softmax" if ends_in_softmax else "identity"))


def _check_layer(position: int, layer: nn.Module) -> None:
    name = type(layer).__name__
    if type(layer) not in (nn.Linear, nn.ReLU):
        raise TypeError(f"model: unsupported layer {name} at position {position}; supported are Linear and ReLU, "
                        "a leading Flatten and a final Softmax")
    extra = set(dict(layer.named_parameters())) - {"weight", "bias"}
    if extra:
        raise TypeError(f"model: {name} at position {position} is reparameterised ({', '.join(sorted(extra))}); "
                        "make its weight an ordinary parameter first")
    for key in ("weight", "bias"):
        if getattr(layer, key, None) is not None and key not in dict(layer.named_parameters()):
            raise TypeError(f"model: {key} of {name} at position {position} is not a parameter; make it an nn.Parameter")
    for key, value in layer.named_parameters():
        if not value.is_floating_point():
            raise TypeError(f"model: {key} of {name} at position {position} has dtype {value.dtype}; use a float dtype")
        finite(value, f"model: {key} of {name} at position {position}")


def read_inputs(network: Network, x) -> Tensor:
    """The sample as a float64 tensor (n, N_0); integer pixels and lower precisions convert without rounding.

    Raises:
        ValueError: empty, of the wrong width, or holding NaN or infinity (the first place is named).
    """
    x, width = real_array("x", x), network.widths[0]
    if x.dim() < 2 or x.shape[0] == 0:
        raise ValueError(f"x: found shape {tuple(x.shape)}; give a non-empty sample of shape (n, {width})")
    if math.prod(x.shape[1:]) != width:
        raise ValueError(f"x: found shape {tuple(x.shape)}, {math.prod(x.shape[1:])} values a sample; "
                         f"the first layer takes {width}: give shape (n, {width})")
    x = x.reshape(len(x), width)
    finite(x, "x")
    return x


def dimension_bound(model: nn.Sequential, n: int | None = None, *, head: str | None = None) -> int:
    """The largest rank that the symmetries and the sample size allow; never below the true rank.

    Identity head: min(n·N_L, P − H), since each hidden neuron gives one independent kernel vector, its rescaling.
    Softmax: min(n·(N_L − 1), P − H − (N_{L−1} + 1)), since a shift common to all logits changes nothing (without an
    output bias, the + 1 goes). `n=None` leaves the sample out.

    >>> dimension_bound(relu_mlp([784, 30, 30, 30, 10]), n=600, head="softmax")
    5400
    """
    return read_network(model, head).bound(None if n is None else whole_number("n", n, 1))


@torch.no_grad()
def rescale(model: nn.Sequential, factors) -> nn.Sequential:
    """A new network with the same function: neuron i of hidden layer l scaled by λ_i > 0 going in, 1/λ_i going out.

    Args:
        factors: for each hidden layer, N_l positive numbers. Powers of two keep every product exact in floating point;
            other factors move the parameters by their rounding.
    """
    model, linears = _copy(model)
    for layer, after, scale in _per_hidden_layer("factors", linears, factors):
        scale = scale.to(layer.weight)
        if not (torch.isfinite(scale) & (scale > 0)).all():
            raise ValueError(f"factors: found {scale.tolist()}; every factor must be positive and finite")
        layer.weight.mul_(scale[:, None])
        if layer.bias is not None:
            layer.bias.mul_(scale)
        after.weight.div_(scale)
    return model


@torch.no_grad()
def permute(model: nn.Sequential, permutations) -> nn.Sequential:
    """A new network with the same function: the neurons of each hidden layer l reordered by `permutations[l]`."""
    model, linears = _copy(model)
    for layer, after, order in _per_hidden_layer("permutations", linears, permutations):
        if sorted(order.tolist()) != list(range(layer.out_features)):
            raise ValueError(f"permutations: found {order.tolist()}; give each of 0..{layer.out_features - 1} once")
        order = order.long().to(layer.weight.device)
        layer.weight.copy_(layer.weight[order])
        if layer.bias is not None:
            layer.bias.copy_(layer.bias[order])
        after.weight.copy_(after.weight[:, order])
    return model


def _copy(model: nn.Sequential) -> tuple[nn.Sequential, tuple[nn.Linear, ...]]:
    read_network(model)
    model = copy.deepcopy(model)
    return model, read_network(model).linears


def _per_hidden_layer(name: str, linears, values):
    values = [torch.as_tensor(v) for v in values]
    sizes = [layer.out_features for layer in linears[:-1]]
    if [tuple(v.shape) for v in values] != [(size,) for size in sizes]:
        raise ValueError(f"{name}: found shapes {[tuple(v.shape) for v in values]}; "
                         f"give one vector for each hidden layer, of lengths {sizes}")
    return zip(linears[:-1], linears[1:], values)
