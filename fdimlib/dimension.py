"""The batch functional dimension, rank Df_θ(X), and the computable full functional dimension r*(θ).

Bona-Pellissier, Malgouyres, Bachoc, "Geometry-induced Implicit Regularization in Deep ReLU Neural Networks" (2024). The
notion of functional dimension goes back to Grigsby, Lindsey, Meyerhoff, Wu, "Functional dimension of feedforward ReLU
neural networks" (2022).
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fdimlib.eliminate import Elimination, eliminate
from fdimlib.finite_field import PrimeField, primes
from fdimlib.numerical import numerical_rank, spectrum
from fdimlib.patterns import certified_signs
from fdimlib.reading import Network, read_inputs, read_network
from fdimlib.rows import JacobianRows
from fdimlib.symmetries import bound_of
from fdimlib.validation import one_of, require_memory, whole_number

ATTEMPTS = 3  # fresh random diagonals after a failed check, itself a matter of one run in a few hundred


@dataclass(frozen=True, repr=False)
class Dimension:
    """A rank and how it was obtained; `int(dim)` is the rank, `print(dim)` a sentence.

    Attributes:
        value: the rank.
        bound: what symmetries and sample size allow (`dimension_bound`).
        method: "exact" or "svd".
        verified: exact only: the pivots were checked to be independent and every other row to depend on them.
        head, at: as asked.
        samples, parameters: n and P.
        reached_at: exact only: the first so many samples alone have this rank.
        zero_preactivations: hidden pre-activations that are exactly 0; θ is regular for X when there are none.
        primes: those used by the exact method.
    """

    value: int
    bound: int
    method: str
    verified: bool
    head: str
    at: str
    samples: int
    parameters: int
    zero_preactivations: int
    primes: tuple[int, ...] = ()
    reached_at: int | None = None

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    @property
    def regular(self) -> bool:
        """Whether no hidden pre-activation is exactly 0."""
        return self.zero_preactivations == 0

    def __repr__(self) -> str:
        where = "over the activation region" if self.at == "region" else "at θ"
        how = "numerical: singular values above NumPy's tolerance"
        if self.method == "exact":
            how = f"exact modulo {', '.join(map(str, self.primes))}, {'verified' if self.verified else 'NOT VERIFIED'}"
        zeros = "" if self.regular else f"; not regular: {self.zero_preactivations:,} hidden pre-activations are exactly 0"
        return (f"rank Df_θ(X) = {self.value:,} of at most {self.bound:,} {where} ({self.head} head, n = {self.samples:,}, "
                f"P = {self.parameters:,}; {how}{zeros})")


def batch_functional_dimension(
    model: nn.Sequential, x, *, head: str | None = None, method: str = "exact", at: str = "parameters",
    seed: int = 0, device: str | torch.device | None = None, repeats: int = 1, progress: bool = True,
) -> Dimension:
    """The batch functional dimension of a network on a sample: rank Df_θ(X).

    Args:
        model: Sequential of Linear and ReLU, any floating dtype; parameters and inputs are taken as the exact fractions
            they are.
        x: sample of shape (n, N_0), torch or NumPy.
        head: "identity" (logits), "softmax", or None: softmax when the model ends in one.
        method: "exact", or "svd", the paper's count of singular values (entries in the network's precision).
        at: "parameters", the rank at θ; "region", the rank of θ's whole activation region (its maximum: fresh random
            parameters, the same pattern). They agree for almost every θ; zero biases are where they need not.
        seed: of the random choices in the exact method; the result does not depend on it.
        device: where to compute; None: where the network is.
        repeats: the number of primes; the largest rank counts. A prime can only lose rank, and does so rarely.
        progress: a progress bar for what takes longer than two seconds.

    Raises:
        TypeError, ValueError: a network or sample that cannot be read, or an unknown option; see `read_network`.
        MemoryError: with the bytes needed and free, before allocating.

    >>> import fdimlib as fd
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> int(batch_functional_dimension(fd.relu_mlp([1, 2, 1], seed=0, bias_std=1.0), x))
    3
    """
    one_of("method", method, ("exact", "svd"))
    one_of("at", at, ("parameters", "region"))
    if method == "svd" and at == "region":
        raise ValueError("at: 'region' needs method='exact'; the SVD sees one parameter only")
    repeats = whole_number("repeats", repeats, 1)
    network = read_network(model, head)
    x = read_inputs(network, x)
    bound = bound_of(network, len(x))
    device = torch.device(device or network.linears[0].weight.device)
    layers = network.affine(device)
    signs = certified_signs(layers, x.to(device))
    zeros = sum(int((sign == 0).sum()) for sign in signs)
    common = dict(bound=bound, head=network.head, at=at, samples=len(x), parameters=network.parameters,
                  zero_preactivations=zeros)
    if method == "svd":
        s = spectrum(model, x, head=head)
        shape = (len(x) * network.widths[-1], network.parameters)
        return Dimension(value=numerical_rank(s, shape), method="svd", verified=False, **common)
    runs = []
    for prime in primes(repeats):
        runs.append(_exact(network, layers, signs, x.to(device), PrimeField(prime), at, bound, seed, progress))
        if runs[-1].rank == bound:
            break
    best = max(runs, key=lambda run: (run.rank, run.verified))
    reached_at = int(best.pivots.max()) // network.outputs + 1 if best.rank else 0
    return Dimension(value=best.rank, method="exact", verified=best.verified, primes=tuple(primes(len(runs))),
                     reached_at=reached_at, **common)


def _exact(network: Network, layers, signs, x: Tensor, field: PrimeField, at: str, bound: int, seed: int,
           progress: bool) -> Elimination:
    require_memory(2 * bound**2 + 8 * len(x) * network.widths[-1] * sum(network.widths), x.device,
                   f"exact elimination up to rank {bound:,}")
    generator = torch.Generator().manual_seed(seed)
    if at == "region":
        images = [(field.random(*w.shape, generator=generator, device=x.device),
                   None if b is None else field.random(*b.shape, generator=generator, device=x.device)) for w, b in layers]
    else:
        images = [(field.image(w), None if b is None else field.image(b)) for w, b in layers]
    best, sample = None, field.image(x)
    for _ in range(ATTEMPTS):
        draw = int(torch.randint(2**62, (1,), generator=generator))
        rows = JacobianRows(images, signs, sample, network.head == "softmax", field, draw)
        result = eliminate(rows, field, bound=bound, progress=progress)
        if result.verified:
            return result
        best = max((best, result), key=lambda run: -1 if run is None else run.rank)
    return best


def full_functional_dimension(
    model: nn.Sequential, *, head: str | None = None, mean: float = 0.5, std: float = 1.0, seed: int = 0,
    device: str | torch.device | None = None, max_samples: int | None = None, progress: bool = True,
) -> Dimension:
    """The computable full functional dimension r*(θ): the largest rank over all samples.

    A Gaussian sample grows until the rank meets the bound of the symmetries (then r* is proved), or until its second half
    adds nothing to its first (then the rank is a proven lower bound and no more: regions of inputs that a Gaussian hardly ever
    meets could add to it, and in networks of few inputs they often do; `dim.value < dim.bound` tells this case).

    Args:
        mean, std: of every coordinate of the inputs; the protocol's N(0.5, 1) by default.
        max_samples: stop there at the latest; None: no limit.
        model, head, seed, device, progress: as in `batch_functional_dimension`.

    Returns:
        The dimension on the last sample, with `bound` that of the parameters alone.
    """
    network = read_network(model, head)
    max_samples = None if max_samples is None else whole_number("max_samples", max_samples, 1)
    bound = bound_of(network)
    n = math.ceil(17 * bound / max(network.outputs, 1)) + 20  # generous: elimination stops at the bound, and skims the tail
    while True:
        n = n if max_samples is None else min(n, max_samples)
        x = gaussian_inputs(n, network.widths[0], mean=mean, std=std, seed=seed)
        dim = batch_functional_dimension(model, x, head=head, seed=seed, device=device, progress=progress)
        if dim.value == bound or 2 * dim.reached_at <= n or n == max_samples:
            return dataclasses.replace(dim, bound=bound)
        n *= 2


def gaussian_inputs(n: int, width: int = 784, *, mean: float = 0.5, std: float = 1.0, seed: int = 0) -> Tensor:
    """Independent N(mean, std²) coordinates, (n, width) float64; the protocol's "Gaussian inputs" by default.

    A longer sample with the same seed begins with the shorter one.
    """
    return torch.from_numpy(np.random.default_rng(seed).normal(mean, std, size=(n, width)))
