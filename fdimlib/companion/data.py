"""Inputs: real MNIST digits, Gaussian samples, and the corruptions of the paper's experiments."""

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdimlib.arrays import finite, of_integers, opened, to_float64
from fdimlib.validation import (
    real_number,
    require_memory,
    seed_number,
    untouched,
    whole_number,
)

ROOT_VARIABLE = "FDIMLIB_MNIST"
PACKAGED = (5_000, 10_000)  # pools inside the package; the larger one begins with the smaller

Pool = tuple[np.ndarray, np.ndarray, str]
"""Images (n, 28, 28) uint8, labels (n,) uint8, and where they come from."""


@dataclass(frozen=True, repr=False)
class Sample:
    """Inputs in [0, 1], x_* (n, 784) float64, and labels, y_* (n,) int64; `source` says whose."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    source: str

    def __repr__(self) -> str:
        return (f"{len(self.x_train):,} training and {len(self.x_test):,} test digits "
                f"from {self.source}")


def mnist_sample(
    n_train: int = 600, n_test: int = 2000, *, seed: int = 0,
    root: str | Path | None = None, pool: int | None = None,
) -> Sample:
    """A random split of MNIST, as in the protocol: pixels / 255, training and test disjoint.

    Args:
        n_train, n_test: sizes; together at most 10,000, or 70,000 with the full set.
        seed: of the split.
        root: folder of the four standard IDX files (train-images-idx3-ubyte, …, plain or .gz);
            None takes the folder in the environment variable FDIMLIB_MNIST, and without it the
            digits inside the package. Nothing is downloaded.
        pool: how many digits the split is drawn from, which decides what a seed gives: 5000 or
            10000, digits inside the package, or the size of the full set in the folder. None: the
            folder where one is named, else 5000 where that is enough and 10000 where it is not.

    Raises:
        ValueError: sizes that are not positive or exceed what is there.
        FileNotFoundError: `root` lacks one of the files.

    >>> mnist_sample(100, 50)
    100 training and 50 test digits from the package's 5,000 MNIST digits
    """
    n_train, n_test = whole_number("n_train", n_train, 1), whole_number("n_test", n_test, 1)
    images, labels, source = _pool(root, pool, n_train + n_test)
    if n_train + n_test > len(images):
        raise ValueError(f"n_train, n_test: found {n_train} + {n_test}, but {source} holds "
                         f"{len(images):,}; take fewer, or give the folder of the full set "
                         f"(root= or {ROOT_VARIABLE})")
    order = np.random.default_rng(seed).permutation(len(images))[: n_train + n_test]
    x = torch.from_numpy(images[order].reshape(len(order), -1)).to(torch.float64) / 255
    y = torch.from_numpy(labels[order].astype(np.int64))
    return Sample(x[:n_train], y[:n_train], x[n_train:], y[n_train:], source)


def pool_size(packaged: int = PACKAGED[0]) -> int:
    """The pool that an experiment draws from: the full set in FDIMLIB_MNIST, or else `packaged`."""
    root = os.environ.get(ROOT_VARIABLE)
    return len(_read_idx_folder(Path(root))[0]) if root else packaged


def _pool(root: str | Path | None, pool: int | None, wanted: int) -> Pool:
    """See `mnist_sample` for root and pool."""
    if root is None and pool is not None and pool in PACKAGED:
        return _packaged_digits(pool)
    root = root or os.environ.get(ROOT_VARIABLE)
    if root:
        full = _read_idx_folder(Path(root))
        if pool not in (None, len(full[0])):
            raise ValueError(f"pool: found {pool!r}, but there are {full[2]}; leave pool out, or "
                             f"leave root out for a pool of {PACKAGED[0]} or {PACKAGED[1]} digits "
                             "inside the package")
        return full
    if pool is not None:
        raise ValueError(f"pool: found {pool!r}; use {PACKAGED[0]} or {PACKAGED[1]}, digits inside "
                         f"the package, or name the folder of the full set (root= or "
                         f"{ROOT_VARIABLE})")
    return _packaged_digits(PACKAGED[wanted > PACKAGED[0]])


@cache
def _packaged_digits(pool: int) -> Pool:
    parts = []
    digits = resources.files("fdimlib.companion").joinpath("digits")
    for name in ("mnist_5000.npz", "mnist_other_5000.npz")[: 1 + PACKAGED.index(pool)]:
        with digits.joinpath(name).open("rb") as file:
            with np.load(file, allow_pickle=False) as arrays:
                parts.append((arrays["images"], arrays["labels"]))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    return images, labels, f"the package's {pool:,} MNIST digits"


@cache
def _read_idx_folder(root: Path) -> Pool:
    parts = []
    for part in ("train", "t10k"):
        images = _read_idx(root, f"{part}-images-idx3-ubyte", 3)
        labels = _read_idx(root, f"{part}-labels-idx1-ubyte", 1)
        if len(images) != len(labels) or images.shape[1:] != (28, 28):
            raise ValueError(f"root: {root} holds {len(images)} {part} images of shape "
                             f"{images.shape[1:]} but {len(labels)} labels; as many labels as "
                             "images of 28 × 28 pixels belong together")
        parts.append((images, labels))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    return images, labels, f"{len(images):,} MNIST digits in {root}"


def _read_idx(root: Path, name: str, dimensions: int) -> np.ndarray:
    """The IDX format: magic (0, 0, 8 = uint8, dimensions), big-endian sizes, then the bytes."""
    paths = [path for path in (root / name, root / f"{name}.gz") if path.is_file()]
    if not paths:
        raise FileNotFoundError(f"root: {root} has no {name} or {name}.gz; "
                                "it must hold the four standard MNIST files")
    raw = paths[0].read_bytes()
    if paths[0].suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as damage:
            raise ValueError(f"root: {paths[0]} is not a complete gzip file ({damage}); "
                             "fetch it again") from damage
    begin = 4 + 4 * dimensions
    complete = raw[:4] == bytes([0, 0, 8, dimensions]) and len(raw) >= begin
    shape = np.frombuffer(raw[4:begin], ">i4").tolist() if complete else []
    if not complete or len(raw) != begin + math.prod(shape):
        raise ValueError(f"root: {paths[0]} is not a complete IDX file of {dimensions} dimensions; "
                         "fetch it again")
    return np.frombuffer(raw, np.uint8, offset=begin).reshape(shape)


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
