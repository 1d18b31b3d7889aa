"""Random networks of many operators, and the exact rank of their Jacobian by another route.

All parameters, constants and inputs are small multiples of powers of two, so that torch's own
automatic differentiation in float64 makes no rounding at all: its Jacobian *is* the exact one, with
torch's own derivative where pieces meet. FLINT takes its rank over the rationals. That nothing was
rounded is checked: float32 arithmetic on numbers so small would agree, and a bound says how large
they can have become.
"""

import random
from fractions import Fraction

import flint
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F


def plain_jacobian(model, x, names=None):
    """Df_θ(X) of a module by torch, sample by sample, (n·N_L, P) float64."""
    model = model.double()
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {name: value.detach() for name, value in values.items()}
    counted = [name for name, _ in model.named_parameters() if names is None or name in names]

    def output(varied, one):
        return functional_call(model, {**values, **varied}, (one[None],)).flatten()

    rows = []
    for one in x.double():
        blocks = jacrev(output)({name: values[name] for name in counted}, one)
        flat = [block.reshape(len(block), -1) for block in blocks.values()]
        rows.append(torch.cat(flat, dim=1) if flat else torch.zeros(1, 0))
    return torch.cat(rows)


def rank_over_rationals(matrix):
    """By FLINT; floating-point numbers are the fractions that they are."""
    entries = [[Fraction(v) for v in row] for row in matrix.tolist()]
    if not entries or not entries[0]:
        return 0
    return flint.fmpq_mat([[flint.fmpq(v.numerator, v.denominator) for v in row]
                           for row in entries]).rank()


def oracle_rank(model, x, head="identity", names=None):
    """The rank by torch's derivatives, exact if nothing was rounded; differences for softmax."""
    matrix = plain_jacobian(model, x, names)
    if head == "softmax":
        by_sample = matrix.reshape(len(x), -1, matrix.shape[1])
        matrix = (by_sample[:, :-1] - by_sample[:, -1:]).flatten(0, 1)
    assert matrix.numel() == 0 or matrix.abs().max() < 2.0**50
    return rank_over_rationals(matrix)


def of_small_numbers(model, seed, largest=2):
    """Fill a module with whole numbers, and its statistics with powers of two."""
    generator = torch.Generator().manual_seed(seed)

    def whole(t, low, high):
        return torch.randint(low, high + 1, t.shape, generator=generator).to(t.dtype)

    with torch.no_grad():
        for p in model.parameters():
            p.copy_(whole(p, -largest, largest))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eps = 0.0
                module.running_mean.copy_(whole(module.running_mean, -1, 1))
                module.running_var.copy_(4.0 ** whole(module.running_var, -1, 1))
    return model.eval()


def is_power_of_two(number):
    return number & (number - 1) == 0


class Composed(nn.Module):
    """Operators drawn one after the other; each may take any earlier result."""

    def __init__(self, seed, depth):
        super().__init__()
        self.seed, self.depth = seed, depth
        self.layers = nn.ModuleDict()
        rng = random.Random(seed)
        if rng.random() < 0.25:
            self.shape = (rng.randint(1, 4),)
        else:
            self.shape = (rng.randint(1, 2), rng.randint(2, 5), rng.randint(2, 5))
        with torch.no_grad():
            self(torch.zeros(2, *self.shape))  # makes the layers

    def layer(self, key, make):
        if key not in self.layers:
            self.layers[key] = make()
        return self.layers[key]

    def forward(self, x):
        rng = random.Random(self.seed + 1)
        earlier = [x]
        for step in range(self.depth):
            h = rng.choice(earlier[-2:])
            h = self.step(rng, h, earlier, str(step))
            if h.shape[1:].numel() > 40:
                h = F.max_pool2d(h, 2, ceil_mode=True) if h.dim() == 4 else h[:, :12]
            earlier.append(h)
        h = earlier[-1].flatten(1)
        if rng.random() < 0.7:
            outputs = rng.randint(1, 3)
            h = self.layer("last", lambda: nn.Linear(h.shape[1], outputs))(h)
        return h

    def step(self, rng, h, earlier, key):
        kinds = ["linear", "relu", "relu", "leaky", "relu6", "hardtanh", "abs", "clamp", "scale",
                 "shift", "add", "cat", "maximum", "minimum", "norm", "slice", "own scale",
                 "prelu", "twice", "dropout", "product", "masked"]
        if h.dim() == 4:
            kinds += ["conv"] * 5 + ["max pool", "avg pool", "mean", "pad", "flip", "permute",
                                     "sequence", "flatten", "conv1d", "adaptive"]
        kind = rng.choice(kinds)
        name = f"{key}{kind.replace(' ', '_')}"
        others = [other for other in earlier if other.shape == h.shape]
        other = rng.choice(others) if others else h
        if kind == "linear":
            width, bias = rng.randint(1, 4), rng.random() < 0.7
            return self.layer(name, lambda: nn.Linear(h.shape[-1], width, bias=bias))(h)
        if kind == "twice":
            layer = self.layer("shared" + str(h.shape[-1]),
                               lambda: nn.Linear(h.shape[-1], h.shape[-1]))
            return layer(layer(h).relu())
        if kind == "conv":
            groups = rng.choice([1, h.shape[1]])
            kernel = rng.randint(1, min(3, *h.shape[2:]))
            options = dict(stride=rng.randint(1, 2), padding=rng.randint(0, 1), groups=groups,
                           bias=rng.random() < 0.6)
            if rng.random() < 0.3:
                options |= dict(stride=1, padding="same", dilation=rng.randint(1, 2))
            out = groups * rng.randint(1, 2)
            return self.layer(name, lambda: nn.Conv2d(h.shape[1], out, kernel, **options))(h)
        if kind == "conv1d":
            layer = self.layer(name, lambda: nn.Conv1d(h.shape[1], 2, min(2, h[0, 0].numel()),
                                                       padding=1))
            return layer(h.flatten(2))[:, :, None]
        if kind == "norm":
            make = nn.BatchNorm2d if h.dim() == 4 else nn.BatchNorm1d
            return self.layer(name, lambda: make(h.shape[1]))(h)
        if kind == "prelu":
            slopes = rng.choice([1, h.shape[1]])
            return self.layer(name, lambda: nn.PReLU(slopes))(h)
        if kind == "own scale":
            shape = (h.shape[1], *[1] * (h.dim() - 2))
            scale = self.layer(name, lambda: nn.ParameterList([torch.ones(shape)]))
            return h * scale[0]
        if kind == "masked":
            layer = self.layer(name, lambda: nn.Linear(h.shape[-1], h.shape[-1], bias=False))
            return h @ (layer.weight * torch.eye(h.shape[-1]).to(h).round())
        if kind in ("max pool", "avg pool"):
            size = min(2, *h.shape[2:])
            if kind == "max pool":
                return F.max_pool2d(h, size, rng.randint(1, 2), padding=size // 2)
            return F.avg_pool2d(h, size, rng.randint(1, 2))
        if kind == "adaptive":
            return F.adaptive_max_pool2d(h, [min(2, size) for size in h.shape[2:]])
        if kind == "mean":
            if is_power_of_two(h.shape[3]):
                return h.mean(dim=3, keepdim=True)
            return h.sum(dim=(2, 3), keepdim=True)
        one_number = {
            "relu": F.relu, "leaky": lambda t: F.leaky_relu(t, 0.5), "relu6": F.relu6,
            "hardtanh": F.hardtanh, "abs": torch.abs, "clamp": lambda t: t.clamp(max=2),
            "scale": lambda t: -2 * t, "shift": lambda t: 1 - t, "dropout": lambda t: F.dropout(
                t, 0.5, self.training), "slice": lambda t: t[:, : max(1, t.shape[1] - 1)],
            "add": lambda t: t + other, "cat": lambda t: torch.cat([t, other], 1),
            "maximum": lambda t: torch.maximum(t, other), "product": lambda t: t * other / 4,
            "minimum": lambda t: torch.minimum(other, t), "pad": lambda t: F.pad(t, (1, 0, 0, 1)),
            "flip": lambda t: t.flip(2), "permute": lambda t: t.permute(0, 2, 1, 3),
            "sequence": lambda t: t.flatten(2).mT.unsqueeze(1), "flatten": lambda t: t.flatten(1),
        }
        return one_number[kind](h)


def composition(seed, depth=5, largest=1):
    """(model, x, description): a network of small whole numbers, and a sample of such."""
    model = of_small_numbers(Composed(seed, depth), seed, largest).double()
    generator = torch.Generator().manual_seed(seed + 1)
    samples = 1 + seed % 6
    x = torch.randint(-2, 3, (samples, *model.shape), generator=generator).double()
    return model, x
