"""Running an experiment: every missing point is computed and recorded.

What fails is recorded too and does not stop the rest. Points of one training run are computed
together, because the network is trained once for all of them, in float64 on the CPU whatever the
device of the ranks. Several sweeps may share one folder, on one machine or on a cluster's: a run
that another process has claimed is left to it.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from fdimlib.companion import build_folder
from fdimlib.companion.experiments import PRESETS, Point, Run, experiments, published
from fdimlib.companion.measurements import Outcome, compute, describe, fingerprint, ranks
from fdimlib.companion.once import train_once
from fdimlib.companion.records import Records, table

__all__ = [
    "account", "all_records", "compute", "describe", "fingerprint", "publish", "published",
    "ranks", "results", "sound", "submit", "sweep",
]

SHORT = 2e12  # operations; half a minute on two cores


def all_records(folder: Path | None = None) -> Records:
    """What has been computed here, in records/ of the build folder, and what was published."""
    tables = [published(name, preset) for preset in PRESETS for name in experiments(preset)]
    return Records(folder or build_folder() / "records", tables)


def sweep(
    points: list[Point], records: Records, *, device: str = "cpu", progress: bool = True,
) -> list[Point]:
    """Compute and record every point that is missing.

    Returns:
        The points that failed, or that another process has in hand.

    Raises:
        OSError: a record cannot be written; the message holds the result that would be lost. All
            others are safe.
    """
    unfinished: list[Point] = []
    missing = [point for point in points if records.get(point) is None]
    bar = tqdm(total=sum(point.cost for point in missing), disable=not progress, smoothing=0,
               bar_format="{percentage:3.0f}%|{bar:24}| {elapsed} so far, "
                          "about {remaining} to go; {postfix}")
    with bar:
        for run, group in _by_run(missing):
            done = 0.0
            with records.claim(run) as mine:
                if not mine:
                    unfinished += group
                todo = [point for point in group if mine and records.get(point) is None]
                for point, outcome in compute(todo, device) if todo else ():
                    _write(records, point, outcome)
                    if "error" in outcome:
                        unfinished.append(point)
                    done += point.cost
                    bar.set_postfix_str(describe(point, outcome), refresh=False)
                    bar.update(point.cost)
            bar.update(sum(point.cost for point in group) - done)
    return unfinished


def _by_run(points: list[Point]) -> Iterator[tuple[Run, list[Point]]]:
    """Points of one run together, so that it is trained once.

    Those that take long come last, the longest at the end.
    """
    runs = dict.fromkeys(point.run for point in points)
    place = {run: number for number, run in enumerate(runs)}
    order = sorted(points, key=lambda point: (max(point.cost, SHORT), place[point.run]))
    return ((run, list(group)) for run, group in groupby(order, key=lambda point: point.run))


def _write(records: Records, point: Point, outcome: Outcome) -> None:
    try:
        records.put(point, **outcome)
    except OSError as problem:
        raise OSError(f"record {point.key} cannot be written to {records.folder} ({problem}); "
                      "make room and start again: all finished points before it are safe. "
                      f"This one: {outcome}") from problem


def results(name: str, preset: str, *, device: str = "cpu") -> pd.DataFrame:
    """An experiment's table: at the quick preset computed here, at others what the records hold.

    Raises:
        LookupError: the records hold nothing of it.
    """
    points = experiments(preset)[name]
    if preset != "quick":
        found = table(all_records(), points)
        if found.empty:
            raise LookupError(f"preset: no records of {name} at {preset!r}; "
                              f"python -m fdimlib sweep {name} --preset {preset}")
        return found
    memory = Records(Path("-"))
    for _, group in _by_run(points):
        outcomes = compute(group, device, train_once)
        memory.published |= {point: outcome["result"] for point, outcome in outcomes}
    return table(memory, points)


def sound(*tables: pd.DataFrame) -> bool:
    """Whether every rank of these tables is verified.

    That none exceeds its bound would add nothing: elimination stops there.
    """
    return all(bool(found.verified.all()) for found in tables)


def account(found: pd.DataFrame, name: str, preset: str) -> str:
    """How complete and how sound the table of an experiment is, in two or three lines."""
    wanted = sum(point.method != "svd" for point in experiments(preset)[name])
    counts = found.groupby("width").seed.nunique()
    lines = [
        f"{len(found)} of {wanted} points; every rank verified: {'yes' if sound(found) else 'NO'}",
        f"seeds: {', '.join(f'{n} at w = {width}' for width, n in counts.items())}",
    ]
    if len(found) < wanted:
        lines.append(f"the other {wanted - len(found)}: "
                     f"python -m fdimlib sweep {name} --preset {preset}")
    return "\n".join(lines)


def publish(name: str, preset: str, records: Records) -> Path | None:
    """Write the finished points of an experiment to its table; None when there is none."""
    finished = table(records, experiments(preset)[name])
    if finished.empty:
        return None
    path = published(name, preset)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    finished.to_csv(temporary, index=False, lineterminator="\n")
    temporary.replace(path)
    return path


def submit(
    points: list[Point], records: Records, cluster: str, device: str, options: dict[str, Any],
) -> None:
    """Hand the missing points to submitit, one job a training run, and wait.

    The jobs write the same records. Interrupting the wait does not stop them. What a job that dies
    leaves undone is recorded as failed.
    """
    import submitit  # needed for clusters only, and slow to import

    executor = submitit.AutoExecutor(folder=records.folder / "submitit", cluster=cluster)
    executor.update_parameters(name="fdimlib", **options)
    missing = [point for point in points if records.get(point) is None]
    groups = [group for _, group in _by_run(missing)]
    jobs = [executor.submit(_job, group, records.folder, device) for group in groups]
    for group, job in zip(groups, tqdm(jobs, desc=f"jobs, logs in {executor.folder}", unit="job")):
        try:
            job.result()
        except Exception as problem:  # its own error, the scheduler, a lack of memory
            for point in group:
                if records.get(point) is None:
                    records.put(point, error=f"job {job.job_id}: {problem}")


def _job(points: list[Point], folder: Path, device: str) -> None:
    sweep(points, all_records(folder), device=device, progress=False)
