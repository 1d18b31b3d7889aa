"""What the parameters of a notebook may be.

papermill passes on what it is given, so that a misspelt preset, the word "false" or half a seed
would run as something else. Every notebook asks here before it begins.
"""

from dataclasses import dataclass, field

import torch

from fdimlib.companion.presets import PRESETS
from fdimlib.validation import one_of

SEEDS = 2**32


@dataclass(frozen=True)
class Checked:
    """The parameters that a notebook runs with.

    Attributes:
        deciding: those that decide what its figures show.
    """

    deciding: dict[str, object] = field(default_factory=dict)
    device: object = "cpu"


_last = Checked()


def last_checked() -> Checked:
    """What `check_parameters` was given last, in this process."""
    return _last


def check_parameters(
    *, preset: object, seed: object = 0, device: object = "cpu", interactive: object = False,
) -> None:
    """Check those that a notebook has, and keep them for the provenance of its figures.

    Raises:
        ValueError: beginning with the parameter's name.

    >>> check_parameters(preset="quick", seed=1)
    >>> check_parameters(preset="Paper")
    Traceback (most recent call last):
    ...
    ValueError: preset: found 'Paper'; use one of 'quick', 'paper', 'large'
    """
    one_of("preset", preset, tuple(PRESETS))
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < SEEDS:
        raise ValueError(f"seed: found {seed!r}; give a whole number from 0 to {SEEDS - 1}, "
                         "without a point or quotes")
    one_of("device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: found 'cuda', but torch sees no CUDA device here; use 'cpu'")
    if not isinstance(interactive, bool):
        raise ValueError(f"interactive: found {interactive!r}; give True or False, without quotes")
    global _last
    _last = Checked({"preset": preset, "seed": seed}, device)
