"""Singular values of Jacobians with too many rows to be held: QR in blocks of rows, then of R.

With J = Q R the singular values of J are those of R, and R can be had a block of rows at a time:
the R of two blocks stacked is that of their stacked R's (Golub, Van Loan, Matrix Computations,
section 5.2). Householder's QR is backward stable, as the SVD is: both change singular values by a
modest multiple of eps(float64) times the largest. Parameters of pixels that are 0 on the whole
sample have columns of zeros, which change no singular value but add zeros; they are left out.
"""

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fdimlib.numerical import jacobian

SAMPLES = 64  # whose rows are computed at once


def tall_spectrum(model: nn.Sequential, x: Tensor, *, head: str, progress: bool = False) -> Tensor:
    """Singular values of Df_θ(X), descending, float64, without those of black pixels, which are 0.

    Entries have the network's own precision, as in `fdimlib.spectrum`. It holds two square matrices
    of as many columns as are left.

    >>> import fdimlib as fd
    >>> net, x = fd.relu_mlp([3, 2, 2]), torch.tensor([[1.0, 2, 0], [3, -1, 0], [-1, 1, 0]])
    >>> x = x.double()
    >>> torch.dist(tall_spectrum(net, x, head="identity"), fd.spectrum(net, x)[:6]) < 1e-14
    tensor(True)
    """
    seen = torch.cat([_seen(name, p, x) for name, p in model.named_parameters()])
    triangle = torch.empty(0, int(seen.sum()), dtype=torch.float64)
    waiting: list[Tensor] = []
    for inputs in tqdm(x.split(SAMPLES), unit="block", disable=not progress):
        waiting.append(jacobian(model, inputs, head=head)[:, seen].double().cpu())
        if sum(map(len, waiting)) >= triangle.shape[1]:
            triangle, waiting = _reduced(triangle, waiting), []
    return torch.linalg.svdvals(_reduced(triangle, waiting))


def _seen(name: str, parameter: Tensor, x: Tensor) -> Tensor:
    """Which entries of a parameter can matter: weights of pixels that are not 0 everywhere."""
    if name != "0.weight":
        return torch.ones(parameter.numel(), dtype=torch.bool)
    return (x != 0).any(dim=0).repeat(len(parameter))


def _reduced(triangle: Tensor, waiting: list[Tensor]) -> Tensor:
    return torch.linalg.qr(torch.cat([triangle, *waiting]), mode="r").R
