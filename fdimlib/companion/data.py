"""Inputs: real MNIST digits, Gaussian samples, and the corruptions of the paper's experiments."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdimlib.arrays import finite, of_integers, opened, to_float64
from fdimlib.companion.idx import read_folder
from fdimlib.companion.packaged import PACKAGED, Pool, packaged_digits
from fdimlib.validation import (
    real_number,
    require_memory,
    seed_number,
    untouched,
    whole_number,
)

ROOT_VARIABLE = "FDIMLIB_MNIST"


@dataclass(frozen=True, repr=False)
class Sample:
    """Inputs in [0, 1], x_* (n, 784) float64, and labels, y_* (n,) int64; `source` says whose."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    source: str

    def __repr__(self) -> str:
        return (f"{len(self.x_train):,} training and {len(self.x_test):,} test images "
                f"from {self.source}")


def mnist_sample(
    n_train: int = 600, n_test: int = 2000, *, seed: int = 0,
    root: str | Path | None = None, pool: int | None = None,
) -> Sample:
    """A random split of MNIST, as in the protocol: pixels / 255, training and test disjoint.

    Args:
        n_train, n_test: sizes; together at most 10,000, or 70,000 with the full set.
        seed: of the split.
        root: folder of the four standard IDX files (train-images-idx3-ubyte, …, plain or .gz,
            also as train-images.idx3-ubyte), or one that holds them in MNIST/raw, as torchvision's
            does. Sets like MNIST are read too, and `source` says what was read; where a folder
            holds several, add the beginning of the names: data/emnist-digits. None takes the
            folder in the environment variable FDIMLIB_MNIST, and without it the digits inside the
            package. Nothing is downloaded.
        pool: how many digits the split is drawn from, which decides what a seed gives: 5000 or
            10000, digits inside the package, or the size of the full set in the folder. None: the
            folder where one is named, else 5000 where that is enough and 10000 where it is not.

    Raises:
        ValueError: sizes that are not positive or exceed what is there; a damaged file.
        FileNotFoundError: `root` lacks one of the files; names that come near are listed.

    >>> mnist_sample(100, 50)
    100 training and 50 test images from the package's 5,000 MNIST digits
    """
    n_train, n_test = whole_number("n_train", n_train, 1), whole_number("n_test", n_test, 1)
    seed = whole_number("seed", seed, 0)
    pool = None if pool is None else whole_number("pool", pool, 1)
    images, labels, source, _ = _pool(root, pool, n_train + n_test)
    if n_train + n_test > len(images):
        raise ValueError(f"n_train, n_test: found {n_train} + {n_test}, but there are {source}; "
                         "take fewer, or give the folder of the full set "
                         f"(root= or {ROOT_VARIABLE})")
    order = np.random.default_rng(seed).permutation(len(images))[: n_train + n_test]
    x = torch.from_numpy(images[order].reshape(len(order), -1)).to(torch.float64) / 255
    y = torch.from_numpy(labels[order].astype(np.int64))
    return Sample(x[:n_train], y[:n_train], x[n_train:], y[n_train:], source)


def pool_size(packaged: int = PACKAGED[0]) -> int:
    """The pool that an experiment draws from: the full set in FDIMLIB_MNIST, or else `packaged`.

    Raises:
        FileNotFoundError, ValueError: FDIMLIB_MNIST names no folder of MNIST's digits.
    """
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        return packaged
    pool = read_folder(ROOT_VARIABLE, root)
    if not pool.mnist:  # the key of a record says how many digits there were, and means MNIST's
        raise ValueError(f"{ROOT_VARIABLE}: found {pool.source}; the experiments are recorded as "
                         "being on MNIST, so name the folder of its 70,000 digits, or unset the "
                         "variable")
    return len(pool.images)


def _pool(root: str | Path | None, pool: int | None, wanted: int) -> Pool:
    """See `mnist_sample` for root and pool."""
    if root is None and pool in PACKAGED:
        return packaged_digits(pool)
    named = ROOT_VARIABLE if root is None else "root"
    folder = (os.environ.get(ROOT_VARIABLE) or None) if root is None else root
    if folder is not None:
        full = read_folder(named, folder)
        if pool not in (None, len(full.images)):
            raise ValueError(f"pool: found {pool!r}, but there are {full.source}; leave pool out, "
                             f"or leave root out for a pool of {PACKAGED[0]} or {PACKAGED[1]} "
                             "digits inside the package")
        return full
    if pool is not None:
        raise ValueError(f"pool: found {pool!r}; use {PACKAGED[0]} or {PACKAGED[1]}, digits inside "
                         f"the package, or name the folder of the full set (root= or "
                         f"{ROOT_VARIABLE})")
    return packaged_digits(PACKAGED[wanted > PACKAGED[0]])


@untouched
def add_noise(x: Tensor, level: float, *, seed: int = 0) -> Tensor:
    """x plus independent N(0, level²) noise on every coordinate, not clipped.

    Raises:
        ValueError: no numbers, a negative level, or a sum that overflows.
    """
    level, seed = real_number("level", level, 0), seed_number("seed", seed)
    values = opened("x", x)
    require_memory(24 * math.prod(values.shape), "cpu", "x: as much noise")
    # Of 16 bits or more: torch does not compute in fewer.
    computes = isinstance(values, Tensor) and values.is_floating_point() and values.itemsize > 1
    clean = values if computes else to_float64("x", values)
    assert isinstance(clean, Tensor)
    finite(clean, "x")
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(clean.shape)))
    noisy = clean + level * noise.to(clean.dtype).to(clean.device)
    finite(noisy, f"level: with {level}, x plus noise")
    return noisy


@untouched
def randomize_labels(y: Tensor, share: float, *, classes: int = 10, seed: int = 0) -> Tensor:
    """Labels of which a random `share` is drawn anew, uniformly over the classes.

    So some keep theirs by chance.

    Raises:
        ValueError: no vector of integers, a share that is none, or more classes than the type of
            the labels can tell apart.
    """
    share, seed = real_number("share", share, 0, 1), seed_number("seed", seed)
    given = opened("y", y)
    require_memory(24 * math.prod(given.shape), "cpu", "y: the new labels")
    if not of_integers(given) or given.dtype in (torch.bool, np.bool_) or len(given.shape) != 1:
        raise ValueError(f"y: found shape {tuple(given.shape)}, dtype {given.dtype}; "
                         "give integer labels of shape (n,)")
    labels = to_float64("y", given).long()
    dtype = given.dtype if isinstance(given, Tensor) else torch.int64
    most = min(torch.iinfo(dtype).max, torch.iinfo(torch.int64).max - 1)
    classes = whole_number("classes", classes, 1, most + 1)
    rng = np.random.default_rng(seed)
    chosen = torch.from_numpy(rng.permutation(len(labels))[: round(share * len(labels))])
    drawn = torch.from_numpy(rng.integers(classes, size=len(chosen)))
    labels[chosen.to(labels.device)] = drawn.to(labels.device)
    return labels.to(dtype)
