"""Df_θ(X) as a matrix, and its singular values: the paper's numerical route.

Rows are sample-major (sample, output), columns in the order of
`torch.nn.utils.parameters_to_vector`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from fdimlib.reading import read_inputs, read_network
from fdimlib.validation import require_memory


def jacobian(model: nn.Sequential, x, *, head: str | None = None) -> Tensor:
    """Df_θ(X) by automatic differentiation, (n·N_L, P), in the network's dtype and on its device.

    Args:
        model: the network; a float32 network gives float32 entries, as in the paper's released
            script.
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
    if network.head == "softmax":
        layers.append(nn.Softmax(dim=-1))
    core = nn.Sequential(*layers)
    parameters = {name: p.detach() for name, p in core.named_parameters()}

    def output(parameters, sample):
        return functional_call(core, parameters, (sample,))

    blocks = vmap(jacrev(output), in_dims=(None, 0), chunk_size=64)(parameters, x)
    return torch.cat([block.reshape(rows, -1) for block in blocks.values()], dim=1)


def spectrum(model: nn.Sequential, x, *, head: str | None = None) -> Tensor:
    """Singular values of Df_θ(X), descending, computed in float64.

    The entries have the network's own precision, as `jacobian` gives them: those of a float32
    network carry rounding errors of float32, which the singular values then show.

    Raises:
        MemoryError: the matrix and the work space of the SVD do not fit.
        FloatingPointError: the entries overflow.
    """
    matrix = jacobian(model, x, head=head)
    if not torch.isfinite(matrix).all():
        raise FloatingPointError("model: the Jacobian overflows in floating point; "
                                 "method='exact' takes numbers of any size")
    require_memory(3 * matrix.numel() * 8, matrix.device, "the singular values of the Jacobian")
    matrix = matrix.to(torch.float64)
    tall = matrix if len(matrix) > matrix.shape[1] else matrix.T  # LAPACK is slower on wide ones
    return torch.linalg.svdvals(tall)


def numerical_rank(s: Tensor | Sequence[float], shape: tuple[int, int]) -> int:
    """How many singular values are at least s_max · max(rows, columns) · eps(float64).

    This is the rule of `numpy.linalg.matrix_rank` for a float64 array. For a float32 array NumPy
    takes eps of float32. The paper's released script puts float32 entries into a float64 array, so
    that eps of float64 cuts numbers which are only as good as float32: rounding errors count as
    rank. `spectrum` and this function do the same when the network is float32.

    >>> numerical_rank([2.0, 1.0, 1e-17], (3, 5))
    2
    """
    s = torch.as_tensor(s, dtype=torch.float64)
    if not len(s) or s.max() == 0:
        return 0
    return int((s >= s.max() * max(shape) * torch.finfo(torch.float64).eps).sum())
