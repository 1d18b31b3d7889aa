"""Gaussian samples, as the protocol has them."""

import numpy as np
import torch
from torch import Tensor

from fdimlib.arrays import finite
from fdimlib.validation import (
    real_number,
    require_memory,
    seed_number,
    untouched,
    whole_number,
)

PART = 2**20  # numbers drawn at a time


@untouched
def gaussian_inputs(n: int, width: int = 784, *, mean: float = 0.5, std: float = 1.0,
                    seed: int = 0) -> Tensor:
    """Independent N(mean, std²) coordinates, (n, width) float64; the protocol's by default.

    A longer sample with the same seed begins with the shorter one.
    """
    n, width = whole_number("n", n, 1), whole_number("width", width, 1)
    mean, std = real_number("mean", mean), real_number("std", std, 0)
    larger = "n" if n > width else "width"
    require_memory(8 * n * width, "cpu", f"{larger}: {n:,} samples of {width:,} numbers")
    draw = np.random.default_rng(seed_number("seed", seed)).normal
    x = torch.empty(n, width, dtype=torch.float64)
    for part in x.view(-1).split(PART):  # in parts, so that no second copy is needed
        part.copy_(torch.from_numpy(draw(mean, std, size=len(part))))
    finite(x, f"std: with mean {mean} and std {std}, a number drawn")
    return x
