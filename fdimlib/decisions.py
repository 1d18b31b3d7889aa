"""Which piece of every piecewise operator each sample is on: no sign or maximum left to rounding.

Floating point with error bounds settles nearly all samples. What it leaves open is computed again
in whole numbers of a few digits, then of more, until none is cut: then every sign is exact.

*Ties.* A number exactly on a threshold is counted, as a pre-activation of a ReLU that is 0, and so
is a maximum that two entries share; but only where the two sides are different functions of the
parameters, with the decisions as they are. Where they are the same function, two zeros of inactive
ReLUs say, or the same patch of a blank image seen twice, there is nothing to choose. Whether two
polynomials are the same is seen at random parameters modulo a prime, twice: different ones of
degree d agree there with probability (d/p)² at most (Schwartz, Zippel).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fdimlib.bounded import BoundedNumbers
from fdimlib.draws import Draws
from fdimlib.finite_field import PrimeField
from fdimlib.operators import Choice
from fdimlib.piecewise import Max
from fdimlib.program import Program, run
from fdimlib.residues import Residues
from fdimlib.wide import WideNumbers

DIGITS = 6  # of the first whole numbers tried
AT_ONCE = 2**23  # numbers that widest operators take and give, over samples, looked at together
LOOKS = 2  # random parameters at which tied entries are compared


@dataclass(frozen=True)
class Decisions:
    """What was decided at n samples.

    Attributes:
        codes: (F, n) of each piecewise operator, by its place in the program; (F, 1) of one that
            does not depend on the sample.
        zeros: numbers on a threshold, and ties of different functions.
    """

    codes: dict[int, Tensor]
    zeros: int


def decide(program: Program, x: Tensor, draws: Draws) -> Decisions:
    """Decide every sample of x, (n, F) float64.

    Args:
        draws: of the random parameters at which ties are looked at.
    """
    codes: dict[int, list[Tensor]] = {}
    ties: dict[int, list[Tensor]] = {}
    for part in x.split(max(1, AT_ONCE // program.widest)):
        choices = {place: choice if program.batched[place] else _of_first_sample(choice)
                   for place, choice in _choices(program, part.T.contiguous()).items()}
        for place, choice in choices.items():
            codes.setdefault(place, []).append(choice.code)
        for place, different in _irregular_ties(program, part, choices, draws).items():
            ties.setdefault(place, []).append(different)

    def joined(place: int, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=1) if program.batched[place] else parts[0]

    zeros = sum(int(joined(place, parts).sum()) for place, parts in ties.items())
    return Decisions({place: joined(place, parts) for place, parts in codes.items()}, zeros)


def _of_first_sample(choice: Choice) -> Choice:
    parts: list[Any] = [None if t is None else t[..., :1] for t in choice]
    return Choice(*parts)


def _choices(program: Program, x: Tensor) -> dict[int, Choice]:
    """Proved choices at the samples of x, (F, n)."""
    choices = _run_certified(program, BoundedNumbers(x.device), x)
    limit = DIGITS
    open_samples = _open(choices, x.shape[1])
    while len(open_samples):
        numbers = WideNumbers(x.device, limit)
        at_once = max(1, 2 * AT_ONCE // (limit * program.widest))
        for some in open_samples.split(at_once):
            again = _run_certified(program, numbers, x[:, some])
            choices = {place: _replaced(choice, again[place], some)
                       for place, choice in choices.items()}
        open_samples = _open(choices, x.shape[1])
        limit *= 4
    return choices


def _run_certified(program: Program, numbers: Any, x: Tensor) -> dict[int, Choice]:
    found: dict[int, Choice] = {}
    theta = {number: numbers.constant(p.detach().double().to(x.device).reshape(-1, 1))
             for number, p in enumerate(program.tensors)}
    run(program, numbers, numbers.constant(x), theta, {},
        decided=lambda place, choice: found.__setitem__(place, _broadcast(choice, x.shape[1])))
    return found


def _broadcast(choice: Choice, samples: int) -> Choice:
    """For all samples, where a choice does not depend on the sample."""
    parts: list[Any] = [None if t is None else t.expand(*t.shape[:-1], samples) for t in choice]
    return Choice(*parts)


def _open(choices: dict[int, Choice], samples: int) -> Tensor:
    """The samples at which something is not proved."""
    sure = torch.ones(samples, dtype=torch.bool)
    for choice in choices.values():
        sure &= choice.sure.cpu()
    return (~sure).nonzero()[:, 0]


def _replaced(choice: Choice, again: Choice, some: Tensor) -> Choice:
    """A choice with some samples decided anew."""
    if again.tied is not None and choice.tied is None:
        shape = (*again.tied.shape[:-1], choice.code.shape[1])
        choice = choice._replace(tied=torch.zeros(shape, dtype=torch.bool,
                                                  device=again.tied.device))
    parts: list[Any] = []
    for old, new in zip(choice, again):
        if old is not None:
            old = old.clone()
            old[..., some] = torch.zeros_like(old[..., some]) if new is None else new
        parts.append(old)
    return Choice(*parts)


def _irregular_ties(program: Program, x: Tensor, choices: dict[int, Choice],
                    draws: Draws) -> dict[int, Tensor]:
    """Which entries tie with different functions of the parameters, (F, n) by the operator."""
    tied = {place: choice.tied for place, choice in choices.items() if choice.tied is not None}
    if not tied:
        return {}
    different: dict[int, Tensor] = {}
    field = PrimeField(next(filter(program.allows, draws.primes())))
    numbers = Residues(field, x.device)
    codes = {place: choice.code for place, choice in choices.items()}

    def compare(place: int, inputs: list[Tensor]) -> None:
        if place in tied:
            operator: Any = program.operators[place]
            found = operator.irregular(field, inputs[0], codes[place]) & tied[place]
            found = found.any(dim=0) if isinstance(operator, Max) else found
            different[place] = different.get(place, torch.zeros_like(found)) | found

    for theta in _random_parameters(program, field, draws, x.device):
        run(program, numbers, field.image(x.T), theta, codes, watch=compare)
    return different


def _random_parameters(program: Program, field: PrimeField, draws: Draws,
                       device: torch.device) -> Iterator[dict[int, Tensor]]:
    for look in range(LOOKS):
        generator = draws.generator("ties", look)
        yield {number: field.random(p.numel(), 1, generator=generator, device=device)
               for number, p in enumerate(program.tensors)}
