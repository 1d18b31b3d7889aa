"""`fdimlib figures`: run the notebooks side by side, and say whether all is as published.

What is finished is kept whatever happens to the rest: the next run goes on from there.
"""

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event

from tqdm import tqdm

from fdimlib.companion import (
    BUILD_VARIABLE,
    FIGURES_VARIABLE,
    build_folder,
    kernels,
    notebooks,
    report,
)
from fdimlib.companion.notebooks import Run

AT_ONCE = 2  # kernels need about 1 GB each
KERNEL_FOLDERS = (FIGURES_VARIABLE, "FDIMLIB_MNIST", BUILD_VARIABLE)


def figures(options: Namespace) -> int:
    """Run notebooks and report; 0 if they ran and all is the same, else 1."""
    if options.build:
        os.environ[BUILD_VARIABLE] = str(_absolute(options.build))
    for variable in KERNEL_FOLDERS:  # kernels run elsewhere
        if named := os.environ.get(variable):
            os.environ[variable] = str(_absolute(named))
    paths = notebooks.choose(options.only)
    require_writable(notebooks.executed_folder(options.preset), "--build",
                     "name a folder for the executed copies: --build DIR")
    if options.fresh:
        shutil.rmtree(build_folder() / "trained", ignore_errors=True)
    runs = _run_all(paths, options)
    reached = {run.notebook for run in runs}
    unreached = [path.stem for path in paths if path.stem not in reached]
    found = report.Report(sorted(runs, key=lambda run: run.notebook), unreached,
                          _claims(), chosen=options.preset != "quick")
    _print(found, options.preset)
    try:
        print(f"report: {found.write()}")
    except OSError as problem:
        print(f"report: cannot be written ({problem})")
        return 1
    return int(not found.reproduced)


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def require_writable(target: Path, named: str, advice: str) -> None:
    """Make a folder, and stop with one sentence where files cannot be written to it."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=target):
            pass
    except OSError as problem:
        sys.exit(f"{named}: cannot write to {target} ({problem.strerror}); {advice}")


def _claims() -> dict[str, list[dict[str, str]]]:
    """None of them where they cannot be judged, which is told: the report comes all the same."""
    try:
        return report.judged_claims()
    except (OSError, ValueError, LookupError) as problem:
        print(f"claims: cannot be judged ({problem})")
        return {"15": [{"id": "all", "recorded": "a verdict", "found": str(problem)}]}


def _print(found: report.Report, preset: str) -> None:
    print(f"\n{found.table()}\n")
    for line in (*found.problems(), *found.notes()):
        print(line)
    if found.unreached:
        print(f"not finished: {', '.join(found.unreached)}; the same command goes on from here")
    print("all is as published" if found.reproduced else "NOT all is as published")
    print(f"executed copies: {notebooks.executed_folder(preset)}")


def _run_all(paths: list[Path], options: Namespace) -> list[Run]:
    """The results of those that finished, two notebooks at a time."""
    stop, runs = Event(), []
    workers = min(AT_ONCE, len(paths), _cores())
    with _shared_cores(workers), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(notebooks.run_or_recall, path, preset=options.preset,
                               device=options.device, fresh=options.fresh, stopped=stop.is_set)
                   for path in _in_turn(paths)]
        try:
            for run in _as_they_finish(futures, paths, options.preset):
                runs.append(run)
        except KeyboardInterrupt:
            print("\ninterrupted; what is finished is kept", flush=True)
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            kernels.kill_all()
    return runs


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _shared_cores(workers: int) -> Iterator[None]:
    """Give each kernel its share of the cores, unless the caller has chosen."""
    chosen = "OMP_NUM_THREADS" in os.environ
    if not chosen:
        os.environ["OMP_NUM_THREADS"] = str(max(1, _cores() // workers))
    try:
        yield
    finally:
        if not chosen:
            del os.environ["OMP_NUM_THREADS"]


def _in_turn(paths: list[Path]) -> list[Path]:
    """The first, then by turns one on theory and one on trained networks.

    Two that train the same networks would wait for each other.
    """
    theory = [path for path in paths if path.stem < "10"]
    trained = [path for path in paths if path.stem >= "10"]
    pairs = zip_longest(theory, trained)
    return [path for path in chain.from_iterable(pairs) if path is not None]


def _as_they_finish(
    futures: list["Future[Run]"], paths: list[Path], preset: str,
) -> Iterator[Run]:
    """Results, with a line for each; on a terminal one line with the time to go."""
    seconds = {path.stem: notebooks.last_seconds(path, preset) or 0.0 for path in paths}
    guess = all(seconds.values())
    total = sum(seconds.values()) if guess else len(paths)
    bar = tqdm(total=total, disable=None, smoothing=0, bar_format=(
        "{percentage:3.0f}%|{bar:24}| {elapsed} so far, about {remaining} to go; {postfix}"))
    with bar:
        for number, future in enumerate(as_completed(futures), 1):
            run = future.result()
            if number == 1 and not run.error:
                copy = notebooks.executed_folder(preset) / f"{run.notebook}.ipynb"
                bar.write(f"first figures: {copy}", file=sys.stdout)
            if bar.disable:
                print(f"[{number}/{len(paths)}] {_in_short(run)}", flush=True)
            bar.set_postfix_str(_in_short(run), refresh=False)
            bar.update(seconds[run.notebook] if guess else 1)
            yield run


def _in_short(run: Run) -> str:
    if run.error:
        return f"{run.notebook}: failed"
    return f"{run.notebook}: " + ("up to date" if run.up_to_date else f"{run.seconds:.0f} s")
