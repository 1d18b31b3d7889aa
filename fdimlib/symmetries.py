"""What leaves the function of a network unchanged: the symmetries, and the bounds that follow.

Making a network stands here too: `relu_mlp`.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fdimlib.arrays import finite, float64, real_array
from fdimlib.reading import Network, read_network
from fdimlib.validation import (
    items,
    real_number,
    require_memory,
    seed_number,
    untouched,
    whole_number,
)


def bound_of(network: Network, n: int | None = None) -> int:
    """See `dimension_bound`."""
    free = network.parameters - network.hidden  # each hidden neuron's rescaling
    if network.head == "softmax":  # a shift common to all logits, by weight columns and bias
        free -= network.widths[-2] + (network.linears[-1].bias is not None)
    return free if n is None else min(n * network.outputs, free)


@untouched
def dimension_bound(
    model: nn.Sequential, n: int | None = None, *, head: str | None = None,
) -> int:
    """The largest rank that the symmetries and the sample size allow; never below the true rank.

    Identity head: min(n·N_L, P − H), since each hidden neuron gives one independent kernel vector,
    its rescaling. Softmax: min(n·(N_L − 1), P − H − (N_{L−1} + 1)), since a shift common to all
    logits changes nothing (without an output bias, the + 1 goes). `n=None` leaves the sample out.

    >>> dimension_bound(relu_mlp([784, 30, 30, 30, 10]), n=600, head="softmax")
    5400
    """
    samples = None if n is None else whole_number("n", n, 1)
    return bound_of(read_network(model, head), samples)


@untouched
@torch.no_grad()
def rescale(model: nn.Sequential, factors: Iterable[Tensor | ArrayLike]) -> nn.Sequential:
    """A new network with the same function, its hidden neurons scaled.

    Neuron i of a hidden layer is scaled by λ_i > 0 going in and by 1/λ_i going out.

    Args:
        factors: for each hidden layer, N_l positive numbers. Powers of two keep every product exact
            in floating point; other factors move the parameters by their rounding.

    Raises:
        TypeError, ValueError: factors that do not fit the layers, or are not positive and finite;
            a product overflows.

    >>> net = relu_mlp([2, 3, 1], seed=0, bias_std=1.0)
    >>> x = torch.eye(2, dtype=torch.float64)
    >>> torch.allclose(rescale(net, [[2.0, 0.5, 8.0]])(x), net(x))
    True
    """
    model, linears = _copy(model)
    for layer, after, scale in _per_hidden_layer("factors", linears, factors):
        if not (torch.isfinite(scale) & (scale > 0)).all():
            raise ValueError(f"factors: found {scale.tolist()}; "
                             "every factor must be positive and finite")
        _multiply_(layer.weight, scale[:, None])
        if layer.bias is not None:
            _multiply_(layer.bias, scale)
        _multiply_(after.weight, scale, divide=True)
    return model


def _multiply_(parameter: Tensor, factors: Tensor, divide: bool = False) -> None:
    """In place, in float64, then rounded to the precision of the parameter."""
    exact = float64(parameter)
    factors = factors.to(exact.device)
    rounded = (exact / factors if divide else exact * factors).to(parameter.dtype)
    finite(rounded, f"factors: a number of the network, scaled by {factors.flatten().tolist()},")
    parameter.copy_(rounded)


@untouched
@torch.no_grad()
def permute(model: nn.Sequential, permutations: Iterable[Tensor | ArrayLike]) -> nn.Sequential:
    """A new network with the same function, its hidden neurons reordered.

    Args:
        permutations: for each hidden layer, the numbers from 0 to N_l − 1 in the new order.

    Raises:
        ValueError: permutations that do not fit the layers, or are none.

    >>> net = relu_mlp([2, 3, 1], seed=0, bias_std=1.0)
    >>> x = torch.eye(2, dtype=torch.float64)
    >>> torch.allclose(permute(net, [[2, 0, 1]])(x), net(x))
    True
    """
    model, linears = _copy(model)
    for layer, after, order in _per_hidden_layer("permutations", linears, permutations):
        if sorted(order.tolist()) != list(range(len(layer.weight))):
            given = ", ".join(f"{number:g}" for number in order.tolist())
            raise ValueError(f"permutations: found [{given}]; "
                             f"give each of 0..{len(layer.weight) - 1} once")
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


def _per_hidden_layer(
    name: str, linears: Sequence[nn.Linear], values: Iterable[Tensor | ArrayLike],
) -> Iterator[tuple[nn.Linear, nn.Linear, Tensor]]:
    """(layer, next layer, its vector of values) for each hidden layer."""
    vectors = [real_array(name, v) for v in items(name, values, "one list for each layer")]
    sizes = [len(layer.weight) for layer in linears[:-1]]
    shapes = [tuple(v.shape) for v in vectors]
    if shapes != [(size,) for size in sizes]:
        raise ValueError(f"{name}: found shapes {shapes}; "
                         f"give one vector for each hidden layer, of lengths {sizes}")
    return zip(linears[:-1], linears[1:], vectors)


@torch.no_grad()
def round_to_grid_(parameters: Iterable[Tensor]) -> None:
    """Round to multiples of 2^-26, in place, so that a seed gives the same bits on every machine.

    Processors and libraries sum in different orders and so disagree in the last bits; measured:
    by 1e-18 in a step of training, on average. Training amplifies that until ranks differ. Rounded
    away after every step, it survives only near a tie, which 680 epochs of 784-30-30-30-10 are
    expected to meet 1e-3 times. The grid is as fine as float32 between ⅛ and ¼.
    """
    for p in parameters:
        p.copy_(((float64(p) * 2.0**26).round_() * 2.0**-26).to(p.dtype))


@untouched
def relu_mlp(widths: Sequence[int], *, seed: int = 0, bias_std: float = 0.0) -> nn.Sequential:
    """A fully connected ReLU network with Glorot-uniform weights, in float64.

    Weights and biases are rounded to multiples of 2^-26 (`round_to_grid_`).

    Args:
        widths: (N_0, …, N_L), input width first.
        seed: the weights depend on nothing else.
        bias_std: standard deviation of Gaussian biases; 0 gives the protocol's zero biases.

    The network is on the CPU, whatever the default device; `.to` moves it.

    >>> relu_mlp([784, 30, 30, 30, 10], seed=0)[0].weight.shape
    torch.Size([30, 784])
    """
    sizes = items("widths", widths, "[784, 30, 10]")
    if len(sizes) < 2:
        raise ValueError(f"widths: found {sizes}; "
                         "give at least two positive integers, e.g. [784, 30, 10]")
    sizes = [whole_number("widths", width, 1) for width in sizes]
    bias_std = real_number("bias_std", bias_std, 0)
    generator = torch.Generator().manual_seed(seed_number("seed", seed))
    parameters = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
    require_memory(24 * parameters, "cpu", f"widths: the {parameters:,} parameters")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        # An ordinary Linear would draw weights that are thrown away from torch's global generator.
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
        assert isinstance(linear, nn.Linear)
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.normal_(linear.bias, std=bias_std, generator=generator)
        round_to_grid_(linear.parameters())
        finite(linear.bias, f"bias_std: with {bias_std}, a bias drawn")
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
