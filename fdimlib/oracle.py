"""The slow, obvious exact rank: Df_θ(X) modulo a prime as a matrix, and plain Gaussian elimination.

For tests, benchmarks and notebooks that check the fast route: nothing here is cut at a bound.
"""

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fdimlib.finite_field import PrimeField
from fdimlib.patterns import certified_signs
from fdimlib.reading import read_inputs, read_network


def modular_jacobian(
    model: nn.Sequential, x: Tensor | ArrayLike, p: int, *, head: str | None = None,
) -> np.ndarray:
    """Df_θ(X) modulo p, int64, sample-major; for softmax, of the logit differences to the last.

    Written for obviousness, sample by sample. It shares with the fast route the reading of the
    network, the images of numbers modulo p and the certified signs, and nothing else.
    """
    network, field = read_network(model, head), PrimeField(p)
    inputs = read_inputs(network, x)
    layers = network.affine()

    def image(t: Tensor) -> np.ndarray:
        return field.image(t).cpu().numpy().astype(np.int64)

    weights = [image(weight) for weight, _ in layers]
    biases = [None if bias is None else image(bias) for _, bias in layers]
    patterns = [(sign > 0).cpu().numpy() for sign in certified_signs(layers, inputs)]
    rows = []
    for index, h in enumerate(image(inputs)):
        activations = [h]
        for weight, bias, pattern in zip(weights, biases, patterns):
            z = weight @ activations[-1] % p + (0 if bias is None else bias)
            activations.append(np.where(pattern[index], z, 0) % p)
        g = np.eye(len(weights[-1]), dtype=np.int64)
        if network.head == "softmax":
            g = g[:-1] - g[-1]
        blocks: list[np.ndarray] = []
        for l in reversed(range(len(weights))):
            by_bias = [] if biases[l] is None else [g]
            by_weight = g[:, :, None] * activations[l] % p
            blocks = [by_weight.reshape(len(g), weights[l].size), *by_bias, *blocks]
            if l:
                g = g @ weights[l] % p * patterns[l - 1][index]
        rows.append(np.concatenate(blocks, axis=1) % p)
    return np.concatenate(rows)


def modular_rank(matrix: np.ndarray, p: int) -> int:
    """The rank modulo p by plain Gaussian elimination, one row operation after another.

    >>> modular_rank(np.array([[1, 2], [2, 4], [0, 7]]), 7)
    1
    """
    matrix, rank = matrix % p, 0
    for column in range(matrix.shape[1]):
        candidates = rank + np.flatnonzero(matrix[rank:, column])
        if not len(candidates):
            continue
        matrix[[rank, candidates[0]]] = matrix[[candidates[0], rank]]
        row = matrix[rank] * pow(int(matrix[rank, column]), -1, p) % p
        below = matrix[rank + 1 :]
        matrix[rank + 1 :] = (below - below[:, column, None] * row) % p
        rank += 1
        if rank == len(matrix):
            break
    return rank
