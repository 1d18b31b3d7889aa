"""The real MNIST digits inside the package."""

from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np

PACKAGED = (5_000, 10_000)  # pools inside the package; the larger one begins with the smaller


class Pool(NamedTuple):
    """Images (n, 28, 28) uint8, labels (n,) uint8, where they are from, and whether MNIST's."""

    images: np.ndarray
    labels: np.ndarray
    source: str
    mnist: bool


@cache
def packaged_digits(pool: int) -> Pool:
    """One of the pools in `PACKAGED`."""
    parts = []
    digits = resources.files("fdimlib.companion").joinpath("digits")
    for name in ("mnist_5000.npz", "mnist_other_5000.npz")[: 1 + PACKAGED.index(pool)]:
        with digits.joinpath(name).open("rb") as file:
            with np.load(file, allow_pickle=False) as arrays:
                parts.append((arrays["images"], arrays["labels"]))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    return Pool(images, labels, f"the package's {pool:,} MNIST digits", mnist=True)


def is_mnist(images: np.ndarray, labels: np.ndarray) -> bool:
    """Whether these are the 70,000 digits: all 10,000 of the package are among them, as labelled.

    Fashion-MNIST has as many images of the same shape, EMNIST has such digits on their side.
    """
    if len(images) != 70_000:
        return False
    found = {image.tobytes(): label for image, label in zip(images, labels)}
    known = packaged_digits(PACKAGED[-1])
    return all(found.get(image.tobytes()) == label
               for image, label in zip(known.images, known.labels))
