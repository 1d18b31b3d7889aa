"""Df_θ(X) as a matrix: the paper's numerical route, and the slow, obvious exact oracle.

Rows are sample-major (sample, output), columns in the order of `torch.nn.utils.parameters_to_vector`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from fdimlib.activation import certified_signs
from fdimlib.finite_field import PrimeField
from fdimlib.networks import read_inputs, read_network
from fdimlib.validation import require_memory


def jacobian(model: nn.Sequential, x, *, head: str | None = None) -> Tensor:
    """Df_θ(X) by automatic differentiation, shape (n·N_L, P), in the floating dtype and on the device of the network.

    Args:
        model: the network; a float32 network gives float32 entries, as in the paper's protocol.
        x: sample, (n, N_0).
        head: "identity" (logits), "softmax", or None: softmax when the model ends in one.

    Raises:
        MemoryError: the matrix does not fit, with the bytes needed and free.

    >>> import fdimlib as fd
    >>> fd.jacobian(fd.relu_mlp([2, 3, 2]), torch.eye(2)).shape
    torch.Size([4, 17])
    """
    network = read_network(model, head)
    first = network.linears[0].weight
    x = read_inputs(network, x).to(first)
    rows = len(x) * network.widths[-1]
    require_memory(2 * rows * network.parameters * first.element_size(), first.device,
                   f"the {rows} × {network.parameters} Jacobian")
    layers = [layer for linear in network.linears for layer in (linear, nn.ReLU())][:-1]
    core = nn.Sequential(*layers, *([nn.Softmax(dim=-1)] if network.head == "softmax" else []))
    parameters = {name: p.detach() for name, p in core.named_parameters()}

    def output(parameters, sample):
        return functional_call(core, parameters, (sample,))

    blocks = vmap(jacrev(output), in_dims=(None, 0), chunk_size=64)(parameters, x)
    return torch.cat([block.reshape(rows, -1) for block in blocks.values()], dim=1)


def spectrum(model: nn.Sequential, x, *, head: str | None = None) -> Tensor:
    """Singular values of Df_θ(X), descending, in float64 (entries in the network's own precision, as `jacobian`).

    Raises:
        MemoryError: the matrix and the work space of the SVD do not fit.
        FloatingPointError: the entries overflow.
    """
    matrix = jacobian(model, x, head=head)
    if not torch.isfinite(matrix).all():
        raise FloatingPointError("model: the Jacobian overflows in floating point; method='exact' takes numbers of any size")
    require_memory(3 * matrix.numel() * 8, matrix.device, "the singular values of the Jacobian")
    matrix = matrix.to(torch.float64)
    return torch.linalg.svdvals(matrix if len(matrix) > matrix.shape[1] else matrix.T)  # LAPACK is slower on wide matrices


def numerical_rank(s: Tensor | Sequence[float], shape: tuple[int, int]) -> int:
    """How many singular values are at least s_max · max(rows, columns) · eps(float64): NumPy's rule, and the paper's.

    >>> numerical_rank([2.0, 1.0, 1e-17], (3, 5))
    2
    """
    s = torch.as_tensor(s, dtype=torch.float64)
    if not len(s) or s.max() == 0:
        return 0
    return int((s >= s.max() * max(shape) * torch.finfo(torch.float64).eps).sum())


def modular_jacobian(model: nn.Sequential, x, p: int, *, head: str | None = None) -> np.ndarray:
    """The oracle's matrix: Df_θ(X) modulo p, entry by entry in int64; for softmax, of the logit differences to the last.

    Written for obviousness, sample by sample, and sharing with the fast route only the images of numbers modulo p and
    the certified activation pattern.
    """
    network, field = read_network(model, head), PrimeField(p)
    x = read_inputs(network, x)
    layers = network.affine()

    def image(t):
        return field.image(t).cpu().numpy().astype(np.int64)

    weights = [image(weight) for weight, _ in layers]
    biases = [None if bias is None else image(bias) for _, bias in layers]
    patterns = [(sign > 0).cpu().numpy() for sign in certified_signs(layers, x)]
    rows = []
    for index, h in enumerate(image(x)):
        activations = [h]
        for weight, bias, pattern in zip(weights, biases, patterns):
            z = weight @ activations[-1] % p + (0 if bias is None else bias)
            activations.append(np.where(pattern[index], z, 0) % p)
        g = np.eye(len(weights[-1]), dtype=np.int64)
        g = (g[:-1] - g[-1]) if network.head == "softmax" else g
        blocks = []
        for l in reversed(range(len(weights))):
            by_bias = [] if biases[l] is None else [g]
            blocks = [(g[:, :, None] * activations[l] % p).reshape(len(g), weights[l].size), *by_bias, *blocks]
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
        below = np.flatnonzero(matrix[rank:, column])
        if not len(below):
            continue
        matrix[[rank, rank + below[0]]] = matrix[[rank + below[0], rank]]
        row = matrix[rank] * pow(int(matrix[rank, column]), -1, p) % p
        matrix[rank + 1 :] = (matrix[rank + 1 :] - matrix[rank + 1 :, column, None] * row) % p
        rank += 1
        if rank == len(matrix):
            break
    return rank
