"""Df_θ(X) as a matrix, and its singular values: the paper's numerical route.

Rows are sample-major (sample, output), columns in the order of
`torch.nn.utils.parameters_to_vector`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.func import jacrev, vmap

from fdimlib.arrays import finite, float64, real_array, rounded_to
from fdimlib.layers import SAMPLES, NotPlain
from fdimlib.models import (
    Columns,
    columns_of,
    convert_sample,
    device_of_model,
    open_sample,
    precision,
    refuse_unusable,
    replaced_tensors,
)
from fdimlib.reading import Network, open_inputs, read_inputs, read_network
from fdimlib.validation import one_of, pair, require_memory, untouched

AT_ONCE = 64  # samples differentiated together


@dataclass(frozen=True)
class Differentiable:
    """A network and a sample, before anything is computed.

    Attributes:
        differentiate: the derivatives of all outputs by all parameters at these inputs, (n·N_L, P).
        inputs: gives the sample in float64, shaped as the function takes it.
        samples, outputs: n, N_L.
        columns: which of all parameters count.
        head: "identity" or "softmax".
    """

    differentiate: Callable[[Tensor], Tensor]
    inputs: Callable[[], Tensor]
    samples: int
    outputs: int
    columns: Columns
    head: str
    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> tuple[int, int]:
        """Of J: rows, columns."""
        return self.samples * self.outputs, self.columns.count

    def require_memory(self, of_float64: int) -> None:
        """For two Jacobians in the network's precision, and so many more in float64."""
        rows, columns = self.shape
        require_memory(rows * columns * (2 * self.dtype.itemsize + 8 * of_float64), self.device,
                       f"x: the {rows:,} × {columns:,} Jacobian"
                       + (" and its singular values" if of_float64 else ""))


def open_network(model: nn.Module, x: Tensor | ArrayLike, head: str | None = None,
                 parameters: str | Sequence[str] = "all") -> Differentiable:
    """The network as automatic differentiation takes it, and the sample."""
    one_of("head", head, ("identity", "softmax", None))
    columns = columns_of(model, parameters)
    try:
        network = read_network(model, head)
        read_inputs(network, open_inputs(network, x)[:SAMPLES])
        return _of_layers(network, x, columns)
    except NotPlain:
        return _of_module(model, x, head, columns)


def _of_layers(network: Network, x: Tensor | ArrayLike, columns: Columns) -> Differentiable:
    layers = [{name: p.detach() for name, p in linear.named_parameters()}
              for linear in network.linears]

    def output(parameters: list[dict[str, Tensor]], h: Tensor) -> Tensor:
        for depth, layer in enumerate(parameters):
            h = (h.relu() if depth else h) @ layer["weight"].T + layer.get("bias", 0)
        return h.softmax(dim=-1) if network.head == "softmax" else h

    def differentiate(inputs: Tensor) -> Tensor:
        blocks = vmap(jacrev(output), in_dims=(None, 0), chunk_size=AT_ONCE)(layers, inputs)
        rows = len(inputs) * network.widths[-1]
        return torch.cat([block.reshape(rows, -1) for layer in blocks
                          for block in layer.values()], dim=1)

    return Differentiable(
        differentiate,
        lambda: read_inputs(network, x), len(open_inputs(network, x)), network.widths[-1],
        columns, network.head, network.dtype(), network.device)


def _of_module(model: nn.Module, x: Tensor | ArrayLike, head: str | None,
               columns: Columns) -> Differentiable:
    """Any module, which must do to each sample what it does to it alone."""
    sample = open_sample(x)
    refuse_unusable(model)
    dtype, device = precision(model), device_of_model(model)

    def output(parameters: dict[int, Tensor], h: Tensor) -> Tensor:
        with replaced_tensors(model, parameters):
            out = model(h[None]).flatten()
        return out.softmax(dim=-1) if head == "softmax" else out

    parameters = {id(p): p.detach() for p in model.parameters()}

    def differentiate(inputs: Tensor) -> Tensor:
        """One sample after the other: not every operator can be batched twice."""
        return torch.cat([torch.cat([block.flatten(1) for block in of_sample.values()], dim=1)
                          for of_sample in map(partial(jacrev(output), parameters), inputs)])

    some = convert_sample(sample[:AT_ONCE]).to(device, dtype)
    outputs = _outputs_alone(model, some)
    return Differentiable(
        differentiate, lambda: convert_sample(sample), len(sample), outputs, columns,
        head or "identity", dtype, device)


@torch.no_grad()
def _outputs_alone(model: nn.Module, x: Tensor) -> int:
    """N_L, of a module that gives a sample alone what it gives it among others.

    Raises:
        ValueError: it does not.
    """
    mixed = ("model: mixes samples: one alone has another output than among others, or none; "
             "call model.eval()")
    with replaced_tensors(model, {id(t): t.clone() for t in model.buffers()}):
        together = model(x)
        if not isinstance(together, Tensor) or len(together) != len(x):
            raise TypeError("model: must give one tensor of shape (n, N_L), a row for each sample")
        try:
            alone = torch.cat([model(one[None]) for one in x])
        except ValueError as problem:  # of BatchNorm in training mode
            raise ValueError(mixed) from problem
    if (together - alone).abs().max() > 1e-3 * together.abs().max():
        raise ValueError(mixed)
    return together[0].numel()


@untouched
def jacobian(
    model: nn.Module, x: Tensor | ArrayLike, *, head: str | None = None,
    parameters: str | Sequence[str] = "all",
) -> Tensor:
    """Df_θ(X) by automatic differentiation, (n·N_L, P), in the network's dtype and on its device.

    Args:
        model: any module from samples (n, …) to a tensor (n, …), which is flattened; a float32
            network gives float32 entries, as in the paper's released script.
        x: sample, (n, …).
        head: "identity" (logits), "softmax", or None: softmax when a plain Sequential ends in one;
            any other module is taken as it is.
        parameters: the columns, "all", "trainable" or names; see `batch_functional_dimension`.

    Raises:
        MemoryError: the matrix does not fit, with the bytes needed and free.
        FloatingPointError: its entries overflow.

    >>> import fdimlib as fd
    >>> fd.jacobian(fd.relu_mlp([2, 3, 2]), torch.eye(2)).shape
    torch.Size([4, 17])
    """
    return jacobian_of(open_network(model, x, head, parameters))


def jacobian_of(network: Differentiable, of_float64: int = 0) -> Tensor:
    """The matrix, where there is memory for it and so many more in float64."""
    network.require_memory(of_float64)
    like = torch.empty(0, dtype=network.dtype, device=network.device)
    inputs = rounded_to(network.inputs(), like, "x")
    matrix = network.differentiate(inputs)[:, network.columns.mask.to(network.device)]
    if not torch.isfinite(matrix).all():
        raise FloatingPointError("model: the Jacobian overflows in floating point; "
                                 "method='exact' takes numbers of any size")
    return matrix


@untouched
def spectrum(
    model: nn.Module, x: Tensor | ArrayLike, *, head: str | None = None,
    parameters: str | Sequence[str] = "all",
) -> Tensor:
    """Singular values of Df_θ(X), descending, computed in float64.

    The entries have the network's own precision, as `jacobian` gives them: those of a float32
    network carry rounding errors of float32, which the singular values then show.

    Args:
        model, x, head, parameters: as in `jacobian`.

    Raises:
        MemoryError: the matrix and the work space of the SVD do not fit.
        FloatingPointError: the entries overflow.
    """
    return spectrum_of(open_network(model, x, head, parameters))


def spectrum_of(network: Differentiable) -> Tensor:
    matrix = float64(jacobian_of(network, of_float64=2))
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
        s: singular values of the matrix, in any order; those that are 0 may be left out.
        shape: of the matrix, (rows, columns).

    Raises:
        ValueError: negative, NaN or infinite singular values, or more of them than the shape has.

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
