"""Df_θ(X) as a matrix, and its singular values: the paper's numerical route.

Rows are sample-major (sample, output), columns in the order of
`torch.nn.utils.parameters_to_vector`.
"""

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.func import jacrev, vmap

from fdimlib.arrays import finite, float64, real_array, rounded_to
from fdimlib.reading import Network, open_inputs, read_inputs, read_network
from fdimlib.validation import pair, require_memory, untouched


@untouched
def jacobian(
    model: nn.Sequential, x: Tensor | ArrayLike, *, head: str | None = None,
) -> Tensor:
    """Df_θ(X) by automatic differentiation, (n·N_L, P), in the network's dtype and on its device.

    Args:
        model: the network; a float32 network gives float32 entries, as in the paper's released
            script.
        x: sample, (n, N_0).
        head: "identity" (logits), "softmax", or None: softmax when the model ends in one.

    Raises:
        MemoryError: the matrix does not fit, with the bytes needed and free.
        FloatingPointError: its entries overflow.

    >>> import fdimlib as fd
    >>> fd.jacobian(fd.relu_mlp([2, 3, 2]), torch.eye(2)).shape
    torch.Size([4, 17])
    """
    network = read_network(model, head)
    n = len(open_inputs(network, x))
    require_memory_of_spectrum(network, n, of_float64=0)
    layers = [dict(linear.named_parameters()) for linear in network.linears]
    parameters = [{name: p.detach() for name, p in layer.items()} for layer in layers]
    first = parameters[0]["weight"].new_empty(0, dtype=network.dtype())
    inputs = rounded_to(read_inputs(network, x), first, "x")

    def output(parameters: list[dict[str, Tensor]], h: Tensor) -> Tensor:
        for depth, layer in enumerate(parameters):
            h = (h.relu() if depth else h) @ layer["weight"].T + layer.get("bias", 0)
        return h.softmax(dim=-1) if network.head == "softmax" else h

    blocks = vmap(jacrev(output), in_dims=(None, 0), chunk_size=64)(parameters, inputs)
    rows = n * network.widths[-1]
    matrix = torch.cat([block.reshape(rows, -1) for layer in blocks for block in layer.values()],
                       dim=1)
    if not torch.isfinite(matrix).all():
        raise FloatingPointError("model: the Jacobian overflows in floating point; "
                                 "method='exact' takes numbers of any size")
    return matrix


def require_memory_of_spectrum(network: Network, n: int, of_float64: int = 2) -> None:
    """For two Jacobians in the network's precision, and so many more in float64."""
    rows, columns = n * network.widths[-1], network.parameters
    entry = 2 * network.linears[0].weight.element_size() + 8 * of_float64
    require_memory(rows * columns * entry, network.device,
                   f"x: the {rows:,} × {columns:,} Jacobian"
                   + (" and its singular values" if of_float64 else ""))


@untouched
def spectrum(
    model: nn.Sequential, x: Tensor | ArrayLike, *, head: str | None = None,
) -> Tensor:
    """Singular values of Df_θ(X), descending, computed in float64.

    The entries have the network's own precision, as `jacobian` gives them: those of a float32
    network carry rounding errors of float32, which the singular values then show.

    Raises:
        MemoryError: the matrix and the work space of the SVD do not fit.
        FloatingPointError: the entries overflow.
    """
    network = read_network(model, head)
    require_memory_of_spectrum(network, len(open_inputs(network, x)))
    matrix = float64(jacobian(model, x, head=head))
    tall = matrix if len(matrix) > matrix.shape[1] else matrix.T  # LAPACK is slower on wide ones
    return torch.linalg.svdvals(tall)


@untouched
def numerical_rank(s: Tensor | ArrayLike, shape: Sequence[int]) -> int:
    """How many singular values are at least s_max · max(rows, columns) · eps(float64).

    This is the rule of `numpy.linalg.matrix_rank` for a float64 array. For a float32 array NumPy
    takes eps of float32. The paper's released script puts float32 entries into a float64 array, so
    that eps of float64 cuts numbers which are only as good as float32: rounding errors count as
    rank. `spectrum` and this function do the same when the network is float32.

    Args:
        s: singular values of the matrix, in any order; those left out are taken to be 0.
        shape: of the matrix, (rows, columns).

    Raises:
        ValueError: negative, NaN or infinite singular values, or more than the shape has.

    >>> numerical_rank([2.0, 1.0, 1e-17], (3, 5))
    2
    """
    rows, columns = pair("shape", shape, "(3, 5)")
    values = real_array("s", s)
    finite(values, "s")
    if values.dim() != 1 or (values < 0).any():
        lowest = f", down to {values.min().item():g}" if values.numel() else ""
        raise ValueError(f"s: found shape {tuple(values.shape)}{lowest}; give singular values, "
                         "which are not negative, of one matrix")
    if len(values) > min(rows, columns):
        raise ValueError(f"s: found {len(values)} numbers; a matrix of shape {rows} × {columns} "
                         f"has {min(rows, columns)} singular values")
    if not values.any():
        return 0
    least = values.max() * max(rows, columns) * torch.finfo(torch.float64).eps
    return int((values >= least).sum())
