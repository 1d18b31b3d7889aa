"""Activation patterns with certified signs.

Everything that is proved about a network depends on which hidden neurons are active, so no sign is
left to rounding: float64 with a running error bound decides nearly all, and exact integers the
rest.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fdimlib.reading import open_inputs, read_inputs, read_network
from fdimlib.validation import require_memory, untouched


@untouched
def activation_pattern(model: nn.Sequential, x: Tensor | ArrayLike) -> Tensor:
    """Which hidden pre-activations are positive: bool (n, H), layers in order.

    The signs are those of exact real arithmetic on the given floating-point numbers, not of a
    rounded forward pass.

    Raises:
        TypeError, ValueError: a network or sample that cannot be read.
        MemoryError: with the bytes needed and free, before allocating.

    >>> import fdimlib as fd
    >>> net = fd.relu_mlp([2, 3, 1], seed=0)
    >>> activation_pattern(net, torch.eye(2)).shape
    torch.Size([2, 3])
    """
    network = read_network(model)
    n = len(open_inputs(network, x))
    require_memory(8 * n * (3 * network.widths[0] + 8 * max(network.widths) + network.hidden),
                   "cpu", f"x: the pre-activations of {n:,} samples")
    signs = certified_signs(network.affine(), read_inputs(network, x))
    none = torch.empty(n, 0, dtype=torch.bool, device=network.device)
    return torch.cat([none, *((sign > 0).to(network.device) for sign in signs)], dim=1)


def certified_signs(layers: list[tuple[Tensor, Tensor | None]], x: Tensor) -> list[Tensor]:
    """Exact signs (−1, 0, 1) of the hidden pre-activations: int8 (n, N_l) for each hidden layer.

    float64 with the standard bound |fl(Σ a_i b_i) − Σ a_i b_i| ≤ γ_k Σ |a_i b_i| (Higham, Accuracy
    and Stability of Numerical Algorithms, section 3.1), carried from layer to layer. Samples with
    a sign inside it are redone exactly.
    """
    x = x.to(layers[0][0].device)
    h, error = x, torch.zeros_like(x)
    doubtful = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    signs = []
    for weight, bias in layers[:-1]:
        if bias is None:
            bias = torch.zeros(len(weight), dtype=x.dtype, device=x.device)
        size = weight.abs().T
        # Terms that can be non-zero: a sum of none is exactly 0, and the rounding grows with their
        # number only.
        terms = ((h != 0) | (error > 0)).double() @ (size != 0).double() + (bias != 0)
        z = h @ weight.T + bias
        magnitude = (h.abs() + error) @ size + bias.abs()
        # 2^-1022 a term covers underflow, 1.01 the rounding of this bound itself.
        rounding = (terms + 2) * 2.0**-53 * magnitude
        error = 1.01 * (error @ size + rounding) + terms * 2.0**-1022
        sure = (z.abs() > error) | (terms == 0)
        doubtful |= ~sure.all(dim=1)
        signs.append(torch.where(terms == 0, 0, z.sign()).to(torch.int8))
        error = torch.where((z < -error) | (terms == 0), 0, error)
        h = z.clamp_min(0)
    if doubtful.any():
        for sign, exact in zip(signs, _exact_signs(layers, x[doubtful])):
            sign[doubtful] = exact.to(sign.device)
    return signs


def _exact_signs(layers: list[tuple[Tensor, Tensor | None]], x: Tensor) -> Iterator[Tensor]:
    """The same signs in exact integer arithmetic: a float64 is an integer times a power of two."""
    h, scale = _integers(x)
    for weight, bias in layers[:-1]:
        w, w_scale = _integers(weight)
        z, scale = h @ w.T, scale + w_scale
        if bias is not None:
            b, b_scale = _integers(bias)
            low = min(scale, b_scale)
            z, scale = (z << (scale - low)) + (b << (b_scale - low)), low
        yield torch.from_numpy((z > 0).astype(np.int8) - (z < 0).astype(np.int8))
        h = np.where(z > 0, z, 0)


def _integers(t: Tensor) -> tuple[np.ndarray, int]:
    """Python integers m and one exponent e with t = m·2^e exactly."""
    mantissa, exponent = np.frexp(t.detach().cpu().numpy())
    exponent = np.where(mantissa == 0, 0, exponent - 53)
    low = int(exponent.min())
    integers = (mantissa * 2.0**53).astype(np.int64).astype(object)
    return integers << (exponent - low).astype(object), low
