"""Df_θ(X) as a matrix, and its singular values: the paper's numerical route.

Rows are sample-major (sample, output), columns in the order of `torch.nn.utils.parameters_to_vector`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from fdimlib.reading import read_inputs, read_network
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
