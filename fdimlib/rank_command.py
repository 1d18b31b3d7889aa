"""What `fdimlib rank` does: the batch functional dimension of a network and a sample in files."""

import argparse
import dataclasses
import json
import sys

import torch

from fdimlib.dimension import batch_functional_dimension
from fdimlib.files import load_inputs, load_network

ARGUMENTS = {
    "path": "MODEL", "model": "MODEL", "x": "--inputs", "layers": "--layers", "head": "--head",
    "method": "--method", "at": "--at", "repeats": "--repeats", "device": "--device",
}
"""The arguments of the functions below, as the command line calls them."""


def rank(options: argparse.Namespace) -> int:
    """Print the dimension: as a sentence, or all its fields as JSON.

    Returns:
        0; 1 if the exact rank could not be verified; 2 if nothing could be computed from these
        arguments, with the reason on standard error.
    """
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device: found cuda, but torch sees no CUDA device here; use cpu")
        model = load_network(options.model, options.layers).to(options.device)
        dim = batch_functional_dimension(
            model, load_inputs(options.inputs), head=options.head, method=options.method,
            at=options.at, repeats=options.repeats, device=options.device,
            progress=sys.stderr.isatty(),
        )
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as problem:
        print(_in_the_command_lines_words(str(problem)), file=sys.stderr)
        return 2
    print(json.dumps(dataclasses.asdict(dim), indent=1) if options.json else dim)
    return int(dim.method == "exact" and not dim.verified)


def _in_the_command_lines_words(message: str) -> str:
    """The message of an error, which begins with the argument's name."""
    name = message.split(":")[0].split(" ")[0]
    return ARGUMENTS.get(name, name) + message.removeprefix(name)
