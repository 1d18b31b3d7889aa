"""A network and a sample, ready for the elimination: what it asks of either kind of network."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fdimlib.arrays import float64
from fdimlib.decisions import decide
from fdimlib.draws import Draws
from fdimlib.finite_field import PrimeField
from fdimlib.models import read
from fdimlib.patterns import certified_signs
from fdimlib.program import Program
from fdimlib.program_rows import Plan, ProgramRows
from fdimlib.reading import Network
from fdimlib.rows import KroneckerRows, RowSource
from fdimlib.symmetries import bound_of
from fdimlib.validation import device_of, require_memory

MakeRows = Callable[[np.random.Generator], RowSource]


class System(Protocol):
    """Df_θ(X) of a network on a sample, before a prime is chosen.

    Attributes:
        numbers: all that the rank depends on, beside the options.
        zeros: numbers exactly where two pieces of an operator meet.
    """

    bound: int
    samples: int
    zeros: int
    numbers: list[Tensor | None]

    def allows(self, prime: int) -> bool:
        """Whether all numbers have residues modulo a prime."""

    def rows(self, field: PrimeField, at: str, draws: Draws) -> MakeRows:
        """Makes the rows modulo a prime."""


class Layers:
    """Linear, ReLU, …, Linear."""

    def __init__(self, network: Network, x: Tensor):
        self.network, self.x, self.samples = network, x, len(x)
        self.bound = bound_of(network, len(x))
        self.layers = network.affine(x.device)
        self.signs = certified_signs(self.layers, x)
        self.zeros = sum(int((sign == 0).sum()) for sign in self.signs)
        self.numbers = [*(number for layer in self.layers for number in layer), x]

    def allows(self, prime: int) -> bool:
        return True  # powers of two have inverses

    def rows(self, field: PrimeField, at: str, draws: Draws) -> MakeRows:
        parameters = self._residues(field, at, draws)
        softmax = self.network.head == "softmax"
        return partial(KroneckerRows, parameters, self.signs, field.image(self.x), softmax, field)

    def _residues(self, field: PrimeField, at: str,
                  draws: Draws) -> list[tuple[Tensor, Tensor | None]]:
        """Of each layer's weight and bias: those of θ, or fresh ones for its region."""
        numbers = [number for layer in self.layers for number in layer if number is not None]
        theta = torch.cat([number.flatten() for number in numbers])
        residues = residues_of(theta, field, at, draws)
        parts = iter(residues.split([number.numel() for number in numbers]))
        return [(next(parts).reshape(weight.shape), None if bias is None else next(parts))
                for weight, bias in self.layers]


class Operators:
    """Any program."""

    def __init__(self, program: Program, x: Tensor):
        self.program, self.x, self.samples = program, x, len(x)
        self.bound = program_bound(program, len(x))
        self.theta = [float64(p).to(x.device) for p in program.tensors]
        words = torch.frombuffer(bytearray(program.fingerprint()), dtype=torch.int32)
        self.numbers: list[Tensor | None] = [*self.theta, x, words]
        self.decisions = decide(program, x, Draws.of(self.numbers))
        self.zeros = self.decisions.zeros

    def allows(self, prime: int) -> bool:
        return self.program.allows(prime)

    def rows(self, field: PrimeField, at: str, draws: Draws) -> MakeRows:
        theta = torch.cat([self.x.new_empty(0), *(p.flatten() for p in self.theta)])
        residues = residues_of(theta, field, at, draws)
        parts = dict(enumerate(residues[:, None].split([p.numel() for p in self.theta])))
        return partial(ProgramRows, self.program, parts, field.image(self.x), self.decisions,
                       self.bound, field)


def residues_of(theta: Tensor, field: PrimeField, at: str, draws: Draws) -> Tensor:
    """Residues of the parameters, or fresh ones for their region."""
    if at == "region":
        generator = draws.generator("parameters", field.p)
        return field.random(len(theta), generator=generator, device=theta.device)
    return field.image(theta)


def program_bound(program: Program, n: int) -> int:
    """What sample and parameters allow: no symmetry is taken for granted."""
    return min(n * program.outputs, program.parameters)


def require_memory_of(network: Network | Program, n: int, device: torch.device, name: str) -> None:
    """For the factor of the pivots, derivatives, and a few copies of x and activations."""
    if isinstance(network, Program):
        bound = program_bound(network, n)
        needed = 2 * bound**2 + Plan.of(network, n, bound).bytes(network, n, bound)
    else:
        bound, widths = bound_of(network, n), network.widths
        copies = widths[-1] * sum(widths) + 4 * widths[0] + 8 * max(widths)
        needed = 2 * bound**2 + 8 * n * copies
    require_memory(needed, device, f"{name}: exact elimination of {n:,} samples up to rank "
                                   f"{bound:,}")


class Ready(NamedTuple):
    """What was read, and the system that it makes with the sample."""

    system: System
    network: Network | Program


def read_system(model: nn.Module, x: Tensor | ArrayLike, head: str | None,
                parameters: str | Sequence[str], device: object,
                eliminated: bool = True) -> Ready:
    """A model and a sample, on the device to compute on; to be eliminated, if memory allows."""
    chosen: list[torch.device] = []

    def prepared(network: Network | Program, n: int) -> None:
        chosen.append(device_of("device", device, network.device))
        if eliminated:
            require_memory_of(network, n, chosen[0], "x")

    network, inputs = read(model, x, head, parameters, prepared)
    inputs = inputs.to(chosen[0])
    if isinstance(network, Program):
        return Ready(Operators(network.to(chosen[0]), inputs), network)
    return Ready(Layers(network, inputs), network)
