"""Notebooks in batch: through papermill, with the chosen preset, in the interpreter that runs this.

The committed notebooks stay as they are. What goes wrong in one is told in its result. A notebook
whose code, parameters and all that they lead to are those of its last run is not run again.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock, Timeout

from fdimlib.companion import REPOSITORY, build_folder, figures_folder, provenance, sources
from fdimlib.companion.atomic import replace
from fdimlib.companion.kernels import OwnKernel

NOTEBOOKS = REPOSITORY / "notebooks"
logging.getLogger("papermill").addHandler(logging.NullHandler())  # a Run says what went wrong


@dataclass(frozen=True)
class Run:
    """What one notebook gave.

    Attributes:
        seconds: that it took when it ran.
        held, of: checks that hold, of how many.
        failed: statement and what was measured, of each check that does not hold.
        figures: what became of each: see `publishing.Outcome`.
        error: empty when it ran through.
        up_to_date: whether this is the result of an earlier run.
    """

    notebook: str
    seconds: float
    held: int = 0
    of: int = 0
    failed: list[list[str]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    up_to_date: bool = False


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


def executed_folder(preset: str) -> Path:
    """Where the executed copies are, and beside each the record of its run."""
    return build_folder() / "executed" / preset


def last_seconds(path: Path, preset: str) -> float | None:
    """How long a notebook took when it last ran here."""
    found = _record(path, preset)
    return found["run"]["seconds"] if found else None


def run_or_recall(
    path: Path, *, preset: str, device: str, fresh: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Run:
    """What a notebook gives: of its last run where nothing has changed since, else of a new one.

    If another process has it in hand, wait for it, and take its result.

    Args:
        fresh: run it in any case.
        stopped: asked while waiting; where it says yes, give up.
    """
    try:
        lock = FileLock(_record_path(path, preset).with_suffix(".lock"))
        with lock.acquire(cancel_check=stopped):
            key = _key(path, preset, device)
            found = _record(path, preset)
            if found and found["key"] == key and not fresh:
                return changed(Run(**found["run"]), up_to_date=True)
            _record_path(path, preset).unlink(missing_ok=True)
            run = run_notebook(path, executed_folder(preset), preset=preset, device=device)
            if not run.error:
                text = json.dumps({"key": key, "run": asdict(run)}, indent=1)
                replace(_record_path(path, preset), text.encode())
            return run
    except (OSError, Timeout, ValueError) as problem:
        return Run(path.stem, 0.0, error=f"{type(problem).__name__}: {problem}")


def _record_path(path: Path, preset: str) -> Path:
    return executed_folder(preset) / f"{path.stem}.json"


def _record(path: Path, preset: str) -> dict[str, Any] | None:
    """Key and result of a notebook's last run; None where that is not to be had."""
    if not (executed_folder(preset) / path.name).exists():
        return None
    try:
        found: dict[str, Any] = json.loads(_record_path(path, preset).read_text(encoding="utf-8"))
        Run(**found["run"])
        return found if "key" in found else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _key(path: Path, preset: str, device: str) -> str:
    """A hash of all that decides what a notebook gives, the published figures included."""
    code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells
                     if cell.cell_type == "code")
    modules = _modules(code)
    published = figures_folder()
    files = {*modules, REPOSITORY / "requirements.lock", *_data_of(modules),
             *published.glob(f"{path.stem[:2]}_*"), *published.glob(f"data/{path.stem[:2]}_*")}
    if sources.PACKAGE / "companion" / "sweeps.py" in modules:  # it reads experiments' tables
        files |= {*REPOSITORY.glob("figures/data/[!0-9]*.csv")}
        files |= set() if preset == "quick" else {*build_folder().glob("records/*.json")}
    setting = {"preset": preset, "device": device, "python": sys.version, **provenance.versions(),
               "digits": os.environ.get("FDIMLIB_MNIST", "")}
    return sources.digest(code, json.dumps(setting), files=files)


def _modules(code: str) -> set[Path]:
    try:
        return sources.modules_of(code)
    except SyntaxError:  # magics of IPython: anything may be used
        return {*sources.PACKAGE.rglob("*.py")}


def _data_of(modules: set[Path]) -> set[Path]:
    """The data in this package: digits, and what carries the name of one of the modules."""
    stems = {path.stem for path in modules}
    files = {path for path in sources.PACKAGE.rglob("*")
             if path.is_file() and path.suffix not in (".py", ".pyc")}
    return {path for path in files if path.parent.name == "digits" or path.stem in stems}


def run_notebook(path: Path, executed: Path, *, preset: str, device: str) -> Run:
    """Execute one notebook in this interpreter, and save a copy in the folder `executed`.

    What goes wrong is told in the result.
    """
    import papermill  # takes a second, which a run that is up to date does not need

    started, saved, error = time.time(), executed / path.name, ""
    try:
        saved.unlink(missing_ok=True)
        known = papermill.inspect_notebook(str(path))
        if "preset" not in known:
            raise ValueError("takes no parameter 'preset' "
                             f"(its parameters: {', '.join(known) or 'none'})")
        given = {"preset": preset, "device": device}
        parameters = {name: value for name, value in given.items() if name in known}
        papermill.execute_notebook(
            str(path), str(saved), parameters, log_output=False, progress_bar=False,
            kernel_manager_class=OwnKernel, resources={"metadata": {"path": str(path.parent)}})
    except papermill.PapermillExecutionError as problem:
        error = f"cell In [{problem.exec_count}] raised {problem.ename}: {problem.evalue}"
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    if error and saved.exists():
        error += f"\n  saved copy: {saved}"
    return Run(path.stem, round(time.time() - started, 1), error=error, **_found_in(saved))


def _found_in(executed: Path) -> dict[str, Any]:
    """Checks and figures, as `figures.Checks` and `figures.save` leave them on their outputs."""
    try:
        cells = nbformat.read(executed, as_version=4).cells
    except (OSError, ValueError, nbformat.reader.NotJSONError):  # not written, or not to the end
        return {}
    metadata = [output.get("metadata", {}) for cell in cells for output in cell.get("outputs", [])]
    checks = [found["fdimlib"] for found in metadata if "fdimlib" in found]
    return {"held": sum(c["held"] for c in checks), "of": sum(c["of"] for c in checks),
            "failed": [[*row] for c in checks for row in c["failed"]],
            "figures": [json.loads(json.dumps(m["figure"])) for m in metadata if "figure" in m]}
