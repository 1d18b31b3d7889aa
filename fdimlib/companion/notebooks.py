"""Notebooks in batch: through papermill, with the chosen preset, in the interpreter that runs this.

The committed notebooks stay as they are. What fails in one does not stop the others.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill

from fdimlib.companion import REPOSITORY
from fdimlib.companion.figures import folder
from fdimlib.companion.kernels import OwnKernel

NOTEBOOKS = REPOSITORY / "notebooks"


@dataclass(frozen=True)
class Run:
    """One notebook's line in the closing table; `error` is empty when it ran through."""

    notebook: str
    seconds: float
    figures: int
    held: int
    of: int
    error: str = ""


def run_notebook(path: Path, executed: Path, *, preset: str, device: str) -> Run:
    """Execute one notebook in this interpreter, and save a copy in the folder `executed`.

    What goes wrong is told in the result.
    """
    started, saved, error = time.time(), executed / path.name, ""
    try:
        saved.unlink(missing_ok=True)
        known = papermill.inspect_notebook(str(path))
        if "preset" not in known:
            raise ValueError("takes no parameter 'preset' "
                             f"(its parameters: {', '.join(known) or 'none'})")
        given = {"preset": preset, "device": device}
        parameters = {name: value for name, value in given.items() if name in known}
        papermill.execute_notebook(str(path), str(saved), parameters, cwd=str(path.parent),
                                   log_output=False, kernel_manager_class=OwnKernel)
    except papermill.PapermillExecutionError as problem:
        error = f"cell In [{problem.exec_count}] raised {problem.ename}: {problem.evalue}"
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    if error and saved.exists():
        error += f"\n  saved copy: {saved}"
    held, of = _checks(saved)
    written = sum(p.stat().st_mtime >= started for p in folder().glob(f"{path.name[:2]}_*.png"))
    return Run(path.stem, time.time() - started, written, held, of, error)


def _checks(executed: Path) -> tuple[int, int]:
    """How many checks held, of how many: metadata that `figures.Checks` leaves on its output."""
    try:
        cells = nbformat.read(executed, as_version=4).cells
    except (OSError, ValueError, nbformat.reader.NotJSONError):  # not written, or not to the end
        return 0, 0
    metadata = [output.get("metadata", {}) for cell in cells for output in cell.get("outputs", [])]
    counts = [found["fdimlib"] for found in metadata if "fdimlib" in found]
    return sum(c["held"] for c in counts), sum(c["of"] for c in counts)


def choose(only: list[str]) -> list[Path]:
    """The notebooks asked for, by name or number, in order; all of them when none is named."""
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        sys.exit(f"no notebooks in {NOTEBOOKS}; run this from a clone of the repository, installed "
                 "with `make` or pip -e")
    unknown = [name for name in only if not any(_matches(path, name) for path in paths)]
    if unknown:
        sys.exit(f"--only: found {', '.join(unknown)}; "
                 f"choose among {', '.join(path.stem for path in paths)}")
    return [path for path in paths if not only or any(_matches(path, name) for name in only)]


def _matches(path: Path, name: str) -> bool:
    return Path(name).name.removesuffix(".ipynb") in (path.stem, path.stem[:2])


def table(runs: list[Run]) -> str:
    """The closing table, and below it what failed."""
    rows = [("notebook", "seconds", "figures", "checks held")]
    for r in runs:
        held = "FAILED" if r.error else f"{r.held} of {r.of}"
        rows.append((r.notebook, f"{r.seconds:.0f}", f"{r.figures}", held))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
             for row in rows]
    lines += [f"\n{r.notebook} failed: {r.error}" for r in runs if r.error]
    return "\n".join(lines)
