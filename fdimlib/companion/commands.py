"""What the commands do: figures, sweep, status, rerun.

`figures` runs each notebook through papermill with the chosen preset; the executed copies go to
build/, the committed notebooks stay as they are. `sweep` computes the points of the experiments
that have no record yet, `status` counts them, `rerun` computes a row of a table again and compares.
What fails does not stop the rest; the exit status tells how much failed.
"""

import sys
import time
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill

from fdimlib.companion import REPOSITORY, sweeps
from fdimlib.companion.experiments import PRESETS, Point, experiments
from fdimlib.companion.figures import folder, write_index

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
    """Execute one notebook with papermill; what goes wrong inside it is told in the result."""
    started, saved = time.time(), EXECUTED / preset / path.name
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.unlink(missing_ok=True)
    error = ""
    try:
        known = papermill.inspect_notebook(str(path))
        if "preset" not in known:
            raise ValueError("takes no parameter 'preset' "
                             f"(its parameters: {', '.join(known) or 'none'})")
        given = {"preset": preset, "device": device}
        parameters = {name: value for name, value in given.items() if name in known}
        papermill.execute_notebook(str(path), str(saved), parameters, cwd=str(path.parent),
                                   log_output=False)
    except papermill.PapermillExecutionError as problem:
        error = f"cell In [{problem.exec_count}] raised {problem.ename}: {problem.evalue}"
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    if error and saved.exists():
        error += f"\n  saved copy: {saved}"
    held, of = _checks(saved) if saved.exists() else (0, 0)
    written = sum(p.stat().st_mtime >= started for p in folder().glob(f"{path.name[:2]}_*.png"))
    return Run(path.stem, time.time() - started, written, held, of, error)


def _checks(executed: Path) -> tuple[int, int]:
    """How many checks held, of how many: metadata that `figures.Checks` leaves on its output."""
    cells = nbformat.read(executed, as_version=4).cells
    metadata = [output.get("metadata", {}) for cell in cells for output in cell.get("outputs", [])]
    counts = [found["fdimlib"] for found in metadata if "fdimlib" in found]
    return sum(c["held"] for c in counts), sum(c["of"] for c in counts)


def _choose(only: list[str]) -> list[Path]:
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


def _table(runs: list[Run]) -> str:
    rows = [("notebook", "seconds", "figures", "checks held")]
    for r in runs:
        held = "FAILED" if r.error else f"{r.held} of {r.of}"
        rows.append((r.notebook, f"{r.seconds:.0f}", f"{r.figures}", held))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
             for row in rows]
    lines += [f"\n{r.notebook} failed: {r.error}" for r in runs if r.error]
    return "\n".join(lines)


def figures(options: Namespace) -> int:
    """Run notebooks; the number of those that failed or were not reached."""
    paths, runs = _choose(options.only), []
    try:
        for number, path in enumerate(paths, 1):
            print(f"[{number}/{len(paths)}] {path.stem}", flush=True)
            runs.append(run_notebook(path, preset=options.preset, device=options.device))
    except KeyboardInterrupt:
        print("\ninterrupted; what follows is finished and kept")
    if runs:
        print(f"\n{_table(runs)}\n\nfigures: {write_index(folder())}\n"
              f"executed copies: {EXECUTED / options.preset}")
    unfinished = len(paths) - len(runs)
    return sum(bool(run.error) for run in runs) + unfinished


def sweep(options: Namespace) -> int:
    """Compute what is missing, publish the tables; 1 if something still is missing."""
    records = sweeps.all_records(options.records or sweeps.FOLDER)
    tables = experiments(options.preset)
    names = options.experiment or list(tables)
    points = list(dict.fromkeys(point for name in names for point in tables[name]))
    interrupted = ""
    try:
        if options.cluster:
            sweeps.submit(points, records, options.cluster, options.device, dict(options.option))
        else:
            sweeps.sweep(points, records, device=options.device)
    except KeyboardInterrupt:
        interrupted = "interrupted; the same command goes on where this one stopped\n"
    for name in names:
        path = sweeps.publish(name, options.preset, records)
        if path:
            print(f"table: {path}")
    print(interrupted, end="")
    return status(options)


def status(options: Namespace) -> int:
    """Count the points by their state; 1 if some are not done."""
    records = sweeps.all_records(options.records or sweeps.FOLDER)
    tables = experiments(options.preset)
    print(f"{'experiment':16}{'points':>8}{'done':>8}{'running':>9}{'failed':>8}{'missing':>9}")
    unfinished: dict[Point, str] = {}
    for name in options.experiment or tables:
        states = {point: records.state(point) for point in tables[name]}
        count = Counter(states.values())
        print(f"{name:16}{len(states):8,}{count['done']:8,}{count['running']:9,}"
              f"{count['failed']:8,}{count['missing']:9,}")
        unfinished |= {point: state for point, state in states.items() if state != "done"}
    for point, state in unfinished.items():
        if state == "failed":
            print(f"failed: {sweeps.describe(point, {'error': records.error(point)})}")
    return int(bool(unfinished))


def rerun(options: Namespace) -> int:
    """Compute a row again; 1 if it failed, or gave another exact rank with the same weights."""
    known = {point.key: point for preset in PRESETS for table in experiments(preset).values()
             for point in table}
    if options.key not in known:
        sys.exit(f"key: found {options.key!r}, which names no point of any experiment; "
                 "take one from a table in figures/data")
    point, records = known[options.key], sweeps.all_records(options.records or sweeps.FOLDER)
    numerical = Point.from_fields(point.fields | {"method": "svd"})
    points = [point, numerical] if records.get(numerical) else [point]
    outcomes = sweeps.compute(points, options.device)
    return max(_compare(point, outcome, records.get(point)) for point, outcome in outcomes)


def _compare(point: Point, outcome: dict[str, Any], before: dict[str, Any] | None) -> int:
    """Print what a point gave now and before; see `rerun` for the result."""
    now = outcome.get("result")
    print(f"now:    {sweeps.describe(point, outcome)}")
    if now is None or before is None:
        print("before: no record")
        return int(now is None)
    print(f"before: {sweeps.describe(point, {'result': before})}")
    same_weights = now["weights"] == before["weights"]
    ranks = sweeps.ranks(now)
    others = [name for name, rank in sweeps.ranks(before).items() if ranks[name] != rank]
    drift = "the same, bit by bit" if same_weights else "others: training drifted in the last bits"
    print(f"the weights are {drift}; "
          f"the ranks {'differ in ' + ', '.join(others) if others else 'agree'}")
    return int(same_weights and any(name.startswith("exact") for name in others))
