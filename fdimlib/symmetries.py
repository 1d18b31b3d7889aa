"""What leaves the function of a network unchanged: the bounds on the rank that follow, and the symmetries themselves.

Making a network stands here too: `relu_mlp`.
"""

import copy
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fdimlib.reading import Network, read_network
from fdimlib.validation import whole_number


def bound_of(network: Network, n: int | None = None) -> int:
    """See `dimension_bound`."""
    free = network.parameters - network.hidden
    if network.head == "softmax":
        free -= network.widths[-2] + (network.linears[-1].bias is not None)
    return free if n is None else min(n * network.outputs, free)


def dimension_bound(model: nn.Sequential, n: int | None = None, *, head: str | None = None) -> int:
    """The largest rank that the symmetries and the sample size allow; never below the true rank.

    Identity head: min(n·N_L, P − H), since each hidden neuron gives one independent kernel vector, its rescaling.
    Softmax: min(n·(N_L − 1), P − H − (N_{L−1} + 1)), since a shift common to all logits changes nothing (without an
    output bias, the + 1 goes). `n=None` leaves the sample out.

    >>> dimension_bound(relu_mlp([784, 30, 30, 30, 10]), n=600, head="softmax")
    5400
    """
    return bound_of(read_network(model, head), None if n is None else whole_number("n", n, 1))


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
