"""Random small networks, and ranks to compare with.

`rational_rank` shares no code with the library: fractions, one entry at a time, and FLINT. `oracle`
shares reading, images and signs with the fast route; it is for what is too large for fractions.
Neither is cut at a bound.
"""

import copy
import math
from fractions import Fraction

import flint
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

import fdimlib as fd
from fdimlib.finite_field import primes
from fdimlib.oracle import modular_jacobian, modular_rank

settings.register_profile("project", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("project")
PRIME = primes(1)[0]


def oracle(net, x, head=None):
    """The slow, obvious rank: explicit Jacobian modulo a prime, plain elimination."""
    return modular_rank(modular_jacobian(net, x, PRIME, head=head), PRIME)


def exact(net, x, **options):
    """The library's rank, which must be verified."""
    dim = fd.batch_functional_dimension(net, x, **options)
    assert dim.verified and 0 <= dim.error_bound < 1e-6, dim
    return int(dim)


def rational(numbers):
    """A tensor as nested lists of fractions."""
    if isinstance(numbers, list):
        return [rational(number) for number in numbers]
    if isinstance(numbers, float):
        return Fraction(numbers)
    return rational(numbers.double().tolist())


def dot(a, b):
    return sum((p * q for p, q in zip(a, b)), Fraction(0))


def rational_layers(net):
    """(weight, bias or None) of each layer, as fractions."""
    return [(rational(layer.weight), None if layer.bias is None else rational(layer.bias))
            for layer in net if isinstance(layer, nn.Linear)]


def rational_forward(layers, point):
    """What goes into each layer, and the pre-activations of each hidden one, at one input."""
    hs, zs = [point], []
    for weight, bias in layers[:-1]:
        z = [dot(row, hs[-1]) for row in weight]
        if bias is not None:
            z = [a + b for a, b in zip(z, bias)]
        zs.append(z)
        hs.append([max(a, Fraction(0)) for a in z])
    return hs, zs


def rational_inputs(x):
    return rational(torch.as_tensor(x).double().reshape(len(x), -1))


def rational_signs(net, x):
    """The signs of all hidden pre-activations, a list of lists for each sample."""
    layers = rational_layers(net)
    return [[[(a > 0) - (a < 0) for a in z] for z in rational_forward(layers, point)[1]]
            for point in rational_inputs(x)]


def rational_jacobian(net, x, head="identity"):
    """Df_θ(X) as rows of fractions.

    Softmax rows are p_o (Dz_o − Σ_k p_k Dz_k), the definition, with an arbitrary positive rational
    vector p: the rank does not depend on p, which is what makes the logit differences exact.
    """
    layers, rows = rational_layers(net), []
    for point in rational_inputs(x):
        hs, zs = rational_forward(layers, point)
        outputs = len(layers[-1][0])
        logits = []
        for o in range(outputs):
            g, blocks = [Fraction(int(k == o)) for k in range(outputs)], []
            for level in reversed(range(len(layers))):
                weight, bias = layers[level]
                by_weight = [gi * h for gi in g for h in hs[level]]
                by_bias = [] if bias is None else list(g)
                blocks = [*by_weight, *by_bias, *blocks]
                if level:
                    g = [dot(g, column) * (z > 0) for column, z in zip(zip(*weight), zs[level - 1])]
            logits.append(blocks)
        if head == "softmax":
            p = [Fraction(k + 1, outputs * (outputs + 1) // 2) for k in range(outputs)]
            mean = [dot(p, column) for column in zip(*logits)]
            logits = [[po * (a - m) for a, m in zip(row, mean)] for po, row in zip(p, logits)]
        rows += logits
    return rows


def rational_rank(net, x, head="identity"):
    """The rank over the rationals."""
    return rank_of_fractions(rational_jacobian(net, x, head))


def rank_of_fractions(rows):
    """By FLINT; rows may be none at all."""
    entries = [[flint.fmpq(v.numerator, v.denominator) for v in row] for row in rows]
    return flint.fmpq_mat(entries).rank() if entries else 0


def assert_rank_within_bounds(net, x, head):
    """By the rational rank, which knows no bound; the library's own stops at the bound."""
    rank = rational_rank(net, x, head)
    assert rank <= fd.dimension_bound(net, len(x), head=head)
    assert rank <= fd.dimension_bound(net, head=head)


def neighbour_in_region(net, x, generator):
    """A random network near this one with the same pattern; None where θ is not regular for X."""
    signs = rational_signs(net, x)
    if any(sign == 0 for sample in signs for layer in sample for sign in layer):
        return None
    step = 2.0**-6
    while True:
        near = copy.deepcopy(net).double()
        with torch.no_grad():
            for p in near.parameters():
                p.add_(step * torch.randint(-(2**12), 2**12, p.shape, generator=generator) / 2**12)
        if rational_signs(near, x) == signs:
            return near
        step /= 8


@st.composite
def networks(draw, max_depth=4, max_width=4):
    """A small network, any of its ways to be special, and a sample: (net, x)."""
    widths = draw(st.lists(st.integers(1, max_width), min_size=2, max_size=max_depth + 1))
    seed = draw(st.integers(0, 10_000))
    net = fd.relu_mlp(widths, seed=seed, bias_std=draw(st.sampled_from([0.0, 1.0])))
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    kinds = ["none", "dead", "twin", "zero", "no bias", "float32", "float16", "integers"]
    special = draw(st.sampled_from(kinds))
    with torch.no_grad():
        if special == "no bias":
            net = nn.Sequential(*map(without_bias, net))
        if special == "dead" and len(linears) > 1:
            linears[0].bias[0] = -100.0
        if special == "twin" and len(linears) > 1 and widths[1] > 1:
            linears[0].weight[0] = linears[0].weight[1].clone()
            linears[0].bias[0] = linears[0].bias[1].clone()
        if special == "zero":
            linears[-1].weight[:, 0] = 0.0
        if special == "integers":
            for layer in linears:
                layer.weight.mul_(2).round_()
                layer.bias.round_()
        if special.startswith("float"):
            net = net.to(getattr(torch, special))
    generator = torch.Generator().manual_seed(seed + 1)
    samples = draw(st.integers(1, 8))
    x = torch.randn(samples, widths[0], generator=generator, dtype=torch.float64)
    return net, x.round() if special == "integers" else x


def without_bias(layer):
    """A linear layer without its bias; any other as it is."""
    if not isinstance(layer, nn.Linear):
        return layer
    bare = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=layer.weight.dtype)
    bare.weight.data = layer.weight.data
    return bare


NEAR = [*primes(2), 4153817, 2750161, 2097169]  # of 22 bits, the largest and smallest among them


@st.composite
def networks_near_primes(draw):
    """A tiny network and integer inputs, many numbers being multiples of one prime, or nearly."""
    p = draw(st.sampled_from(NEAR))
    multiple, off = st.integers(-3, 3), st.sampled_from([0, 0, -1, 1])
    number = st.builds(lambda k, off: k * p + off, multiple, off)

    def numbers(*shape):
        size = math.prod(shape)
        drawn = draw(st.lists(number, min_size=size, max_size=size))
        return torch.tensor(drawn, dtype=torch.float64).reshape(shape)

    widths = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    net = fd.relu_mlp(widths, seed=draw(st.integers(0, 1000)), bias_std=1.0)
    if draw(st.booleans()):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(numbers(*parameter.shape))
    return net, numbers(draw(st.integers(1, 4)), widths[0])
