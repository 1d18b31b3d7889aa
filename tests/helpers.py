"""Random small networks, and three ranks that share no code with the fast route."""

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
    """The library's rank, which must be verified and within its bound."""
    dim = fd.batch_functional_dimension(net, x, **options)
    assert dim.verified and 0 <= dim.value <= dim.bound, dim
    return int(dim)


def rational_rank(net, x, head="identity"):
    """The rank over the rationals: fractions forwards and backwards, one entry at a time; FLINT for the rank.

    Softmax rows are p_o (Dz_o − Σ_k p_k Dz_k), the definition, with an arbitrary positive rational vector p: its rank
    does not depend on p, which is what makes the logit differences exact.
    """
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    weights = [[[Fraction(v) for v in row] for row in layer.weight.double().tolist()] for layer in linears]
    biases = [None if layer.bias is None else [Fraction(v) for v in layer.bias.double().tolist()] for layer in linears]
    rows = []
    for point in torch.as_tensor(x).double().reshape(len(x), -1).tolist():
        hs, masks = [[Fraction(v) for v in point]], []
        for weight, bias in zip(weights, biases):
            z = [sum((w * h for w, h in zip(row, hs[-1])), Fraction(0)) for row in weight]
            z = z if bias is None else [a + b for a, b in zip(z, bias)]
            masks.append([a > 0 for a in z])
            hs.append([max(a, Fraction(0)) for a in z])
        outputs = len(weights[-1])
        logits = []
        for o in range(outputs):
            g, blocks = [Fraction(int(k == o)) for k in range(outputs)], []
            for level in reversed(range(len(weights))):
                bias = [] if biases[level] is None else g
                blocks = [gi * h for gi in g for h in hs[level]] + list(bias) + blocks
                if level:
                    g = [sum((gi * row[j] for gi, row in zip(g, weights[level])), Fraction(0)) * masks[level - 1][j]
                         for j in range(len(weights[level][0]))]
            logits.append(blocks)
        if head == "softmax":
            p = [Fraction(k + 1, outputs * (outputs + 1) // 2) for k in range(outputs)]
            mean = [sum((pk * row[j] for pk, row in zip(p, logits)), Fraction(0)) for j in range(len(logits[0]))]
            logits = [[p[o] * (a - m) for a, m in zip(logits[o], mean)] for o in range(outputs)]
        rows += logits
    return flint.fmpq_mat([[flint.fmpq(v.numerator, v.denominator) for v in row] for row in rows]).rank()


@st.composite
def networks(draw, max_depth=4, max_width=4):
    """A small network, any of its ways to be special, and a sample: (net, x)."""
    widths = draw(st.lists(st.integers(1, max_width), min_size=2, max_size=max_depth + 1))
    seed = draw(st.integers(0, 10_000))
    net = fd.relu_mlp(widths, seed=seed, bias_std=draw(st.sampled_from([0.0, 1.0])))
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    special = draw(st.sampled_from(["none", "dead", "twin", "zero", "no bias", "float32", "float16", "integers"]))
    with torch.no_grad():
        if special == "no bias":
            net = nn.Sequential(*(without_bias(layer) if isinstance(layer, nn.Linear) else layer for layer in net))
        if special == "dead" and len(linears) > 1:
            linears[0].bias[0] = -100.0
        if special == "twin" and len(linears) > 1 and widths[1] > 1:
            linears[0].weight[0], linears[0].bias[0] = linears[0].weight[1].clone(), linears[0].bias[1].clone()
        if special == "zero":
            linears[-1].weight[:, 0] = 0.0
        if special == "integers":
            for layer in linears:
                layer.weight.mul_(2).round_()
                layer.bias.round_()
        if special.startswith("float"):
            net = net.to(getattr(torch, special))
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(draw(st.integers(1, 8)), widths[0], generator=generator, dtype=torch.float64)
    return net, x.round() if special == "integers" else x


def without_bias(layer):
    bare = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=layer.weight.dtype)
    bare.weight.data = layer.weight.data
    return bare
