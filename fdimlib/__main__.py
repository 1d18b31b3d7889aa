"""The command line: `fdimlib rank | figures | about | claims | sweep | status | rerun`.

`python -m fdimlib …` is the same.
What a command needs is imported when it is chosen, so that the help comes at once.
"""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

MODULES = {
    "rank": "fdimlib.rank_command",
    "figures": "fdimlib.companion.figures_command",
    "about": "fdimlib.companion.provenance",
    "claims": "fdimlib.companion.claims_command",
}
"""Where a command is; the others are in `fdimlib.companion.commands`."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 0 if all that was asked for was done."""
    options = _parser().parse_args(arguments)
    if options.command != "rank":
        if getattr(options, "device", "cpu") == "cuda":
            _require_cuda()
        _require_known(getattr(options, "experiment", []))
    run: Callable[[argparse.Namespace], int] = getattr(_module_of(options.command), options.command)
    try:
        return run(options)
    except OSError as problem:  # a file that cannot be read or written: a sentence, no traceback
        sys.exit(f"{options.command}: {problem}")


def _module_of(command: str) -> Any:
    try:
        return import_module(MODULES.get(command, "fdimlib.companion.commands"))
    except ModuleNotFoundError as missing:
        if command == "rank" or missing.name is None or missing.name.startswith("fdimlib"):
            raise
        sys.exit(f"{command}: needs {missing.name}, which is not installed here; "
                 "pip install 'fdimlib[companion]'")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fdimlib",
        description="Exact functional dimensions of ReLU networks; a companion to a paper on them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_rank(commands)
    _add_companion(commands)
    return parser


def _add_rank(commands: Any) -> None:
    rank = commands.add_parser(
        "rank", help="the exact rank of a network and a sample in files",
        description="The batch functional dimension, rank Df_θ(X), of a network on a sample. "
                    "No code that a file carries is run.")
    rank.add_argument("model", metavar="MODEL", type=Path,
                      help="a .safetensors file, or a .pt2 archive of torch.export")
    rank.add_argument("--inputs", required=True, metavar="X.npy", type=Path,
                      help="the sample, (n, N_0) or (n, …), as numpy.save writes it")
    rank.add_argument("--layers", nargs="+", metavar="LAYER",
                      help="of a .safetensors file, in order: Flatten, Linear, ReLU, Softmax "
                           "(default: the entry 'layers' of its metadata)")
    rank.add_argument("--head", choices=["identity", "softmax"],
                      help="default: softmax if the network ends in one")
    rank.add_argument("--method", choices=["exact", "svd"], default="exact",
                      help="svd: singular values above a tolerance (default: exact)")
    rank.add_argument("--at", choices=["parameters", "region"], default="parameters",
                      help="region: over the whole activation region (default: parameters)")
    rank.add_argument("--repeats", type=int, default=1, metavar="K",
                      help="so many primes (default: 1)")
    rank.add_argument("--device", choices=["cpu", "cuda"], default="cpu",
                      help="where to compute (default: cpu)")
    rank.add_argument("--json", action="store_true", help="all fields of the result, as JSON")


def _add_companion(commands: Any) -> None:
    from fdimlib.companion.experiments import PRESETS, TABLES

    figures = commands.add_parser(
        "figures", help="run the notebooks and compare their figures with the published ones",
        description="Runs what is not up to date, and ends with a report, also in "
                    "build/report.json; the exit status is 0 if all is as published.")
    figures.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK",
                         help="names or numbers, e.g. 01 10_training")
    figures.add_argument("--fresh", action="store_true",
                         help="run all of them anew, and train all networks anew")
    about = commands.add_parser("about", help="where a figure or a table comes from")
    about.add_argument("file", type=Path, metavar="FILE",
                       help="a PNG or PDF of figures/, or a figure's table in figures/data/")
    claims = commands.add_parser(
        "claims", help="judge the paper's claims anew from the committed tables",
        description="Every verdict on a claim of the paper, from the committed tables, beside the "
                    "recorded one. The exit status is 1 where one has changed.")
    claims.add_argument("id", nargs="*", metavar="ID",
                        help="e.g. training labels; default: all")
    how = claims.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="as JSON")
    how.add_argument("--record", action="store_true",
                     help="for contributors: write the verdicts into the claims file, and the "
                          "README's table of them")
    sweep = commands.add_parser(
        "sweep", help="compute what an experiment still lacks, and write its table")
    sweep.add_argument("--cluster", choices=["local", "debug", "slurm"],
                       help="hand the work to submitit; default: run here")
    sweep.add_argument("--option", nargs="+", type=_setting, default=[], metavar="NAME=VALUE",
                       help="submitit's parameters, e.g. timeout_min=120 slurm_partition=cpu")
    status = commands.add_parser("status", help="count what is done, running, failed and missing")
    rerun = commands.add_parser(
        "rerun", help="compute one row of a table again and compare it with its record")
    rerun.add_argument("key", help="from the column `key` of a table in figures/data")
    for command in (figures, sweep, status):
        command.add_argument("--preset", choices=list(PRESETS), default="quick",
                             help="sizes (default: quick)")
    for command in (figures, sweep, rerun):
        command.add_argument("--device", choices=["cpu", "cuda"], default="cpu",
                             help="where to compute ranks (default: cpu)")
    for command in (sweep, status):
        command.add_argument("experiment", nargs="*", help=f"{', '.join(TABLES)}; default: all")
    for command in (sweep, status, rerun):
        command.add_argument("--records", type=Path, metavar="DIR",
                             help="folder of the records (default: records/ in that of --build)")
    for command in (figures, sweep, status, rerun):
        command.add_argument("--build", type=Path, metavar="DIR",
                             help="folder for what is written beside figures and tables: executed "
                                  "copies, records (default: that in the environment variable "
                                  "FDIMLIB_BUILD, else build/ in the clone)")


def _setting(text: str) -> tuple[str, int | str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"found {text!r}; give NAME=VALUE")
    return name, int(value) if value.isdecimal() else value


def _require_known(names: list[str]) -> None:
    from fdimlib.companion.experiments import TABLES

    if unknown := set(names) - set(TABLES):
        found = ", ".join(sorted(unknown))
        sys.exit(f"experiment: found {found}; choose among {', '.join(TABLES)}")


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        sys.exit("--device: found cuda, but torch sees no CUDA device here; use --device cpu")


if __name__ == "__main__":
    sys.exit(main())
