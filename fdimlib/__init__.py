"""Exact functional dimensions of neural networks, and a companion to a paper on them.

The instrument needs torch and NumPy, and little else; `fdimlib.companion` holds what goes with
Bona-Pellissier, Malgouyres, Bachoc (2024). Names are loaded when they are first used, so that
neither the command line's help nor a program that wants one rank waits for the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fdimlib.companion.data import Sample, add_noise, mnist_sample, randomize_labels
    from fdimlib.companion.presets import get_preset
    from fdimlib.companion.training import Checkpoint, evaluate, train
    from fdimlib.dimension import (
        Dimension,
        batch_functional_dimension,
        full_functional_dimension,
    )
    from fdimlib.explanation import Explanation, explain
    from fdimlib.files import load_network
    from fdimlib.gaussian import gaussian_inputs
    from fdimlib.numerical import jacobian, numerical_rank, spectrum
    from fdimlib.patterns import activation_pattern
    from fdimlib.symmetries import dimension_bound, permute, relu_mlp, rescale

_ROOMS = {
    "companion.data": ("Sample", "add_noise", "mnist_sample", "randomize_labels"),
    "companion.presets": ("get_preset",),
    "companion.training": ("Checkpoint", "evaluate", "train"),
    "dimension": ("Dimension", "batch_functional_dimension", "full_functional_dimension"),
    "explanation": ("Explanation", "explain"),
    "files": ("load_network",),
    "gaussian": ("gaussian_inputs",),
    "numerical": ("jacobian", "numerical_rank", "spectrum"),
    "patterns": ("activation_pattern",),
    "symmetries": ("dimension_bound", "permute", "relu_mlp", "rescale"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Checkpoint", "Dimension", "Explanation", "Sample", "activation_pattern", "add_noise",
    "batch_functional_dimension", "dimension_bound", "evaluate", "explain",
    "full_functional_dimension", "gaussian_inputs", "get_preset", "jacobian", "load_network",
    "mnist_sample", "numerical_rank", "permute", "randomize_labels", "relu_mlp", "rescale",
    "spectrum", "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
