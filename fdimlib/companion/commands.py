"""What the commands do: figures, sweep, status, rerun.

`figures` runs each notebook through papermill with the chosen preset; the executed copies go to build/, the committed notebooks
stay as they are. `sweep` computes the points of the experiments that have no record yet, `status` counts them, `rerun` computes
a row of a table again and compares. What fails does not stop the rest; the exit status tells how much failed.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill

from fdimlib.companion import sweeps
from fdimlib.companion.experiments import PRESETS, Point, experiments
from fdimlib.companion.figures import REPOSITORY, folder, write_index

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


def figures(options) -> int:
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


def sweep(options) -> int:
    records, tables = sweeps.all_records(options.records or sweeps.FOLDER), experiments(options.preset)
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
    print("\n".join(f"table: {path}" for name in names if (path := sweeps.publish(name, options.preset, records))))
    print(interrupted, end="")
    return status(options)


def status(options) -> int:
    records, tables = sweeps.all_records(options.records or sweeps.FOLDER), experiments(options.preset)
    print(f"{'experiment':16}{'points':>8}{'done':>8}{'running':>9}{'failed':>8}{'missing':>9}")
    unfinished: dict[Point, str] = {}
    for name in options.experiment or tables:
        states = {point: records.state(point) for point in tables[name]}
        count = [sum(state == wanted for state in states.values()) for wanted in ("done", "running", "failed", "missing")]
        print(f"{name:16}{len(states):8,}{count[0]:8,}{count[1]:9,}{count[2]:8,}{count[3]:9,}")
        unfinished |= {point: state for point, state in states.items() if state != "done"}
    for point in (point for point, state in unfinished.items() if state == "failed"):
        print(f"failed: {sweeps.describe(point, {'error': records.error(point)})}")
    return int(bool(unfinished))


def rerun(options) -> int:
    known = {point.key: point for preset in PRESETS for table in experiments(preset).values() for point in table}
    if options.key not in known:
        sys.exit(f"key: found {options.key!r}, which names no point of any experiment; take one from a table in figures/data")
    point, records = known[options.key], sweeps.all_records(options.records or sweeps.FOLDER)
    numerical = Point.from_fields(point.fields | {"method": "svd"})
    points = [point, numerical] if records.get(numerical) else [point]
    return max(_compare(point, outcome, records.get(point)) for point, outcome in sweeps.compute(points, options.device))


def _compare(point: Point, outcome: dict, before: dict | None) -> int:
    """Print what a point gave now and before; 1 if it failed, or gave another exact rank with the same weights."""
    now = outcome.get("result")
    print(f"now:    {sweeps.describe(point, outcome)}")
    if now is None or before is None:
        print("before: no record")
        return int(now is None)
    print(f"before: {sweeps.describe(point, {'result': before})}")
    same_weights = now["weights"] == before["weights"]
    others = [name for name, rank in sweeps.ranks(before).items() if sweeps.ranks(now)[name] != rank]
    print(f"the weights are {'the same, bit by bit' if same_weights else 'others: training drifted in the last bits'}; "
          f"the ranks {'differ in ' + ', '.join(others) if others else 'agree'}")
    return int(same_weights and any(name.startswith("exact") for name in others))
