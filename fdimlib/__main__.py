"""`python -m fdimlib figures`: run the notebooks in batch and write the figures.

Each notebook runs through papermill with the chosen preset; the executed copies go to build/, the committed notebooks stay as
they are. A failing notebook does not stop the others; the exit status is the number of those that failed.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
import torch

from fdimlib.figures import REPOSITORY, folder, write_index
from fdimlib.sweeps import PRESETS

NOTEBOOKS = REPOSITORY / "notebooks"
EXECUTED = REPOSITORY / "build" / "executed"


@dataclass(frozen=True)
class Run:
    """One notebook's line in the closing table; `error` is empty when it ran through."""

    notebook: str
    seconds: float
    figures: int
    held: int
    of: int
    error: str = ""


def run_notebook(path: Path, *, preset: str, device: str) -> Run:
    """Execute one notebook with papermill; never raises for what goes wrong inside the notebook."""
    started, saved = time.time(), EXECUTED / preset / path.name
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.unlink(missing_ok=True)
    error = ""
    try:
        known = papermill.inspect_notebook(str(path))
        if "preset" not in known:
            raise ValueError(f"takes no parameter 'preset' (its parameters: {', '.join(known) or 'none'})")
        parameters = {"preset": preset} | ({"device": device} if "device" in known else {})
        papermill.execute_notebook(str(path), str(saved), parameters, cwd=str(path.parent), log_output=False)
    except papermill.PapermillExecutionError as problem:
        error = f"cell In [{problem.exec_count}] raised {problem.ename}: {problem.evalue}\n  saved copy: {saved}"
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}" + (f"\n  saved copy: {saved}" if saved.exists() else "")
    held, of = _checks(saved) if saved.exists() else (0, 0)
    written = sum(p.stat().st_mtime >= started for p in folder().glob(f"{path.name[:2]}_*.png"))
    return Run(path.stem, time.time() - started, written, held, of, error)


def _checks(executed: Path) -> tuple[int, int]:
    """How many checks held, of how many, from the metadata that `figures.Checks` leaves on its output."""
    cells = nbformat.read(executed, as_version=4).cells
    counts = [output.metadata["fdimlib"] for cell in cells for output in cell.get("outputs", [])
              if "fdimlib" in output.get("metadata", {})]
    return sum(c["held"] for c in counts), sum(c["of"] for c in counts)


def _choose(only: list[str]) -> list[Path]:
    """The notebooks asked for, by name or number, in order; all of them when none is named."""
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        sys.exit(f"no notebooks in {NOTEBOOKS}; run this from a clone of the repository, installed with `make` or pip -e")
    unknown = [name for name in only if not any(_matches(path, name) for path in paths)]
    if unknown:
        sys.exit(f"--only: found {', '.join(unknown)}; choose among {', '.join(path.stem for path in paths)}")
    return [path for path in paths if not only or any(_matches(path, name) for name in only)]


def _matches(path: Path, name: str) -> bool:
    return Path(name).name.removesuffix(".ipynb") in (path.stem, path.stem[:2])


def _table(runs: list[Run]) -> str:
    rows = [("notebook", "seconds", "figures", "checks held")]
    rows += [(r.notebook, f"{r.seconds:.0f}", f"{r.figures}", f"{r.held} of {r.of}" if not r.error else "FAILED") for r in runs]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += [f"\n{r.notebook} failed: {r.error}" for r in runs if r.error]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fdimlib", description="Companion to a paper on functional dimension.")
    commands = parser.add_subparsers(dest="command", required=True)
    figures = commands.add_parser("figures", help="run the notebooks and write the figures")
    figures.add_argument("--preset", choices=list(PRESETS), default="quick", help="sizes of the experiments (default: quick)")
    figures.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="names or numbers, e.g. 01 10_training")
    figures.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device: found cuda, but torch sees no CUDA device here; use --device cpu")

    paths, runs = _choose(options.only), []
    try:
        for number, path in enumerate(paths, 1):
            print(f"[{number}/{len(paths)}] {path.stem}", flush=True)
            runs.append(run_notebook(path, preset=options.preset, device=options.device))
    except KeyboardInterrupt:
        print("\ninterrupted; what follows is finished and kept")
    if runs:
        print(f"\n{_table(runs)}\n\nfigures: {write_index(folder())}\nexecuted copies: {EXECUTED / options.preset}")
    unfinished = len(paths) - len(runs)
    return sum(bool(run.error) for run in runs) + unfinished


if __name__ == "__main__":
    sys.exit(main())
