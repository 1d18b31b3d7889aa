"""The batch functional dimension, rank Df_θ(X), and the computable full functional dimension r*(θ).

Bona-Pellissier, Malgouyres, Bachoc, "Geometry-induced Implicit Regularization in Deep ReLU Neural
Networks" (2024). The notion of functional dimension goes back to Grigsby, Lindsey, Meyerhoff, Wu,
"Functional dimension of feedforward ReLU neural networks" (2022).

How sure an exact rank r is; the reasons stand in `certificate`.

- rank ≥ r is proved, if the machine computes without fault: some r × r minor of Df_θ(X) is not 0
  modulo p, so it is not 0.
- rank ≤ r is proved if r equals the bound that the symmetries and the sample size give.
- Otherwise rank ≤ r rests on random checks of all rows that were rejected, which err with
  probability `error_bound` at most, and on the prime: one that divides the numerators of all minors
  of the true rank loses it. Nobody knows it before the input is fixed, nor anything else that is
  random: all of it derives from a hash of θ, X and the options (`draws`, which says what that does
  not protect against). `repeats=k` takes k primes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fdimlib.draws import PRIMES, Draws
from fdimlib.eliminate import Elimination, eliminate
from fdimlib.finite_field import PrimeField
from fdimlib.gaussian import gaussian_inputs
from fdimlib.layers import NotReadable
from fdimlib.numerical import numerical_rank, open_network, spectrum_of
from fdimlib.reading import read_network
from fdimlib.rows import RowSource
from fdimlib.symmetries import bound_of
from fdimlib.systems import read_system, require_memory_of
from fdimlib.validation import (
    device_of,
    flag,
    one_of,
    seed_number,
    untouched,
    whole_number,
)

ATTEMPTS = 3  # fresh random diagonals after a failed check, which is rare


@dataclass(frozen=True, repr=False)
class Dimension:
    """A rank and how it was obtained; `int(dim)` is the rank, `print(dim)` a sentence.

    Attributes:
        value: the rank.
        bound: what symmetries and sample size allow (`dimension_bound`) if the network is Linear,
            ReLU, …, Linear; of any other network, min(n·N_L, P), with softmax one less than N_L for
            each of them: no symmetry is taken for granted there.
        method: "exact" or "svd".
        verified: exact only: each row was kept as independent, or rejected by a random check, or
            not needed since the bound is met; and the rows kept were confirmed to be independent by
            a second route, which guards against faulty arithmetic. False: at best a lower bound.
        error_bound: exact only: a bound of the probability that any rejected row was rejected
            wrongly, for an input not made to fool the hash: that of one test, summed over all row
            tests made modulo the prime whose rank counts; 0.0 when the rank is its bound, for then
            it is proved and no row is missing. Unlucky primes are not in it.
        head, at: as asked.
        samples, parameters: n and P.
        reached_at: exact only: the first so many samples alone have this rank.
        zero_preactivations: hidden pre-activations that are exactly 0; θ is regular for X when
            there are none. The derivative of ReLU at 0 is taken as 0, as torch does. In a network
            of other operators: numbers where two pieces of one meet (ReLU at 0, a maximum that two
            entries share), if these are different functions of the parameters there. Not looked at
            for "svd" of a module that the exact method cannot read.
        primes: those used by the exact method, in the order of their use.
        frozen: how many of these P parameters have `requires_grad=False`; they count all the same.
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
    error_bound: float | None = None
    frozen: int = 0

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
            verdict = "verified" if self.verified else "NOT VERIFIED"
            how = f"exact modulo {', '.join(map(str, self.primes))}, {verdict}"
        zeros = ""
        if not self.regular:
            zeros = (f"; not regular: {self.zero_preactivations:,} "
                     "hidden pre-activations are exactly 0")
        frozen = f", {self.frozen:,} of them frozen and counted too" if self.frozen else ""
        what = f"rank Df_θ(X) = {self.value:,} of at most {self.bound:,} {where}"
        if self.value > self.bound:  # rounding errors counted
            what = (f"no rank of Df_θ(X): a count of {self.value:,}, but the rank is at most "
                    f"{self.bound:,} {where}")
        return (f"{what} ({self.head} head, n = {self.samples:,}, P = {self.parameters:,}{frozen}; "
                f"{how}{zeros})")


@untouched
def batch_functional_dimension(
    model: nn.Module, x: Tensor | ArrayLike, *, head: str | None = None, method: str = "exact",
    at: str = "parameters", parameters: str | Sequence[str] = "all", seed: int | None = None,
    device: str | torch.device | None = None, repeats: int = 1, progress: bool = True,
) -> Dimension:
    """The batch functional dimension of a network on a sample: rank Df_θ(X).

    How sure the result is: `Dimension.verified`, `Dimension.error_bound`, and the page of this
    module.

    Args:
        model: any module whose forward takes a sample (n, …) and gives a tensor (n, …), flattened
            to N_L outputs, made of piecewise polynomial operators: linear layers, convolutions,
            BatchNorm in eval mode, sums, products, pooling, ReLU and its kin, maxima, and a softmax
            or log-softmax at the end. What counts is what it computes, as `torch.export` sees it;
            any other operator is refused, with its name and place. Parameters and inputs are taken
            as the exact fractions they are, means are exact, and constants that the network
            computes in floating point (1 / √(var + eps) of BatchNorm) are the float64 they are.
        x: sample of shape (n, …), torch or NumPy, as the module takes it.
        head: "identity" (logits), "softmax", or None: softmax when the model ends in one.
        method: "exact", or "svd", the paper's count of singular values (entries in the network's
            precision), which can exceed every bound: then it is no rank, and `print` says so.
        at: "parameters", the rank at θ; "region", the rank of θ's whole activation region: its
            maximum, met at fresh random parameters with the same pattern. They agree for almost
            every θ; zero biases are where they need not. For "region", `verified` speaks of the
            rank at the parameters drawn (residues modulo p). It is never more than the region's
            maximum, and less with probability degree / (p − 1) at most (Schwartz, Zippel; the
            degree of a maximal minor, r · (layers − 1) at most), unless p is unlucky.
        parameters: which of them count: "all", frozen ones included; "trainable"; or names, as in
            `model.named_parameters()`. The others are constants. P and the bound follow.
        seed: None derives all random choices from a hash of θ, X and the options, so that the same
            input gives the same ones everywhere, and nobody knows them before the input is fixed.
            A number is hashed along: another draw for the same input. A result that depends on it
            is wrong for one of the two.
        device: where to compute; None: where the network is, or on the CPU if that device has no
            float64. The SVD is computed where the network is.
        repeats: the number of primes, of 22 bits, different, drawn from that hash; the largest rank
            counts, since a prime can only lose rank. It does if it divides every minor that gives
            the rank; more than one makes sense where a rank must not be missed.
        progress: a progress bar for what takes longer than two seconds.

    Raises:
        TypeError, ValueError: a network or sample that cannot be read, or an unknown option; see
            `read_network`.
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
    repeats = whole_number("repeats", repeats, 1, PRIMES)
    progress = flag("progress", progress)
    seed = None if seed is None else seed_number("seed", seed)
    if method == "svd":
        return _by_singular_values(model, x, head, parameters, device)
    system, network = read_system(model, x, head, parameters, device)
    draws = Draws.of(system.numbers, head=network.head, at=at, seed=seed)
    runs: dict[int, Elimination] = {}
    for prime in islice(filter(system.allows, draws.primes()), repeats):
        field = PrimeField(prime)
        runs[prime] = settle(system.rows(field, at, draws), field, draws, system.bound, progress)
        if runs[prime].rank == system.bound:
            break
    best = max(runs.values(), key=lambda run: (run.rank, run.verified))
    reached_at = int(best.pivots.max()) // network.outputs + 1 if best.rank else 0
    return Dimension(
        value=best.rank, bound=system.bound, method="exact", verified=best.verified,
        head=network.head, at=at, samples=system.samples, parameters=network.parameters,
        zero_preactivations=system.zeros, primes=tuple(runs), reached_at=reached_at,
        error_bound=best.error_bound, frozen=network.frozen)


def _by_singular_values(model: nn.Module, x: Tensor | ArrayLike, head: str | None,
                        parameters: str | Sequence[str], device: object) -> Dimension:
    """The paper's count."""
    network = open_network(model, x, head, parameters)
    network.require_memory(of_float64=2)
    bound, zeros = min(network.shape), 0
    try:
        system = read_system(model, x, head, parameters, device, eliminated=False).system
        bound, zeros = system.bound, system.zeros
    except NotReadable:
        pass
    frozen = sum(p.numel() for p, kept in zip(model.parameters(), network.columns.kept)
                 if kept and not p.requires_grad)
    return Dimension(
        value=numerical_rank(spectrum_of(network), network.shape), bound=bound, method="svd",
        verified=False, head=network.head, at="parameters", samples=network.samples,
        parameters=network.shape[1], zero_preactivations=zeros, frozen=frozen)


def settle(rows: Callable[[np.random.Generator], RowSource], field: PrimeField, draws: Draws,
           bound: int, progress: bool) -> Elimination:
    """Eliminate the rows, with a fresh D as long as a check fails; the best of at most ATTEMPTS.

    Its error bound counts the tests of all attempts, since each of them could have been the last.
    """
    runs = []
    for attempt in range(ATTEMPTS):
        generator = draws.generator("attempt", field.p, attempt)
        source = rows(generator)
        runs.append(eliminate(source, field, generator, bound=bound, progress=progress))
        if runs[-1].verified:
            break
    best = max(runs, key=lambda run: (run.verified, run.rank))
    error_bound = 0.0 if best.rank == bound else sum(run.error_bound for run in runs)
    return dataclasses.replace(best, error_bound=error_bound)


@untouched
def full_functional_dimension(
    model: nn.Sequential, *, head: str | None = None, mean: float = 0.5, std: float = 1.0,
    seed: int = 0, device: str | torch.device | None = None, max_samples: int | None = None,
    progress: bool = True,
) -> Dimension:
    """The computable full functional dimension r*(θ), the largest rank over all regular samples.

    A Gaussian sample grows until the rank meets the bound of the symmetries, or until its second
    half adds nothing to its first. What follows holds where θ is regular for the sample,
    `dim.regular`; otherwise the rank may even exceed r* (a layer silent on an open set with zero
    biases behind it can do that). r* is proved when the result is verified and equal to its bound:
    the first case. In the second the rank is a lower bound of r* and no more: regions of inputs
    that a Gaussian hardly ever meets could add to it, and in networks of few inputs they often do;
    `dim.value < dim.bound` tells this case. What `dim.verified` and `dim.error_bound` say concerns
    the rank on the last sample.

    Args:
        mean, std: of every coordinate of the inputs; the protocol's N(0.5, 1) by default.
        seed: of the inputs. The random choices of each rank derive from θ and these inputs.
        max_samples: stop there at the latest; None: no limit.
        model, head, device, progress: as in `batch_functional_dimension`.

    Returns:
        The dimension on the last sample, with `bound` that of the parameters alone.
    """
    network = read_network(model, head)
    device = device_of("device", device, network.device)
    most = None if max_samples is None else whole_number("max_samples", max_samples, 1)
    bound = bound_of(network)
    # Generous: elimination stops at the bound, and skims the tail.
    n = math.ceil(17 * bound / max(network.outputs, 1)) + 20
    while True:
        n = n if most is None else min(n, most)
        require_memory_of(network, n, device, "model")
        x = gaussian_inputs(n, network.widths[0], mean=mean, std=std, seed=seed)
        dim = batch_functional_dimension(model, x, head=head, device=device, progress=progress)
        if dim.value == bound or 2 * (dim.reached_at or 0) <= n or n == most:
            return dataclasses.replace(dim, bound=bound)
        n *= 2
