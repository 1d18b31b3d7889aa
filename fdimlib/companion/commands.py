"""What the commands on experiments do: sweep, status, rerun.

`sweep` computes the points of the experiments that have no record yet, `status` counts them,
`rerun` computes a row of a table again and compares. What fails does not stop the rest; the exit
status tells how much failed. Records go into one folder, `--build`; `status` and `rerun` write
nothing.
"""

import os
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from fdimlib.companion import BUILD_VARIABLE, sweeps
from fdimlib.companion.experiments import PRESETS, Point, experiments
from fdimlib.companion.figures_command import require_writable
from fdimlib.companion.records import Records


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def _use_build(options: Namespace) -> None:
    """Take the folder named on the command line, here and in the notebooks' kernels."""
    if options.build:
        os.environ[BUILD_VARIABLE] = str(_absolute(options.build))


def _records(options: Namespace) -> Records:
    _use_build(options)
    return sweeps.all_records(_absolute(options.records) if options.records else None)


def _tables(preset: str) -> dict[str, list[Point]]:
    """The experiments, unless FDIMLIB_MNIST names what they cannot be drawn from."""
    try:
        return experiments(preset)
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))


def sweep(options: Namespace) -> int:
    """Compute what is missing, publish the tables; 1 if something still is missing."""
    tables, records = _tables(options.preset), _records(options)
    names = options.experiment or list(tables)
    points = list(dict.fromkeys(point for name in names for point in tables[name]))
    if any(records.get(point) is None for point in points):
        named = "--records" if options.records else "--build"
        require_writable(records.folder, named, f"name a folder for the records: {named} DIR")
    stopped, lost = "", False
    try:
        if options.cluster:
            sweeps.submit(points, records, options.cluster, options.device, dict(options.option))
        else:
            sweeps.sweep(points, records, device=options.device)
    except KeyboardInterrupt:
        stopped = "interrupted; the same command goes on where this one stopped"
    except OSError as problem:
        stopped = str(problem)
    for name in names:
        try:
            if path := sweeps.publish(name, options.preset, records):
                print(f"table: {path}")
        except OSError as problem:
            lost = True
            print(f"table: cannot write {sweeps.published(name, options.preset)} "
                  f"({problem.strerror}); its rows stay in {records.folder}")
    if stopped:
        print(stopped)
    return max(status(options), int(lost))


def status(options: Namespace) -> int:
    """Count the points by their state; 1 if some are not done."""
    tables, records = _tables(options.preset), _records(options)
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
    known = {point.key: point for preset in PRESETS for table in _tables(preset).values()
             for point in table}
    if options.key not in known:
        sys.exit(f"key: found {options.key!r}, which names no point of any experiment; "
                 "take one from a table in figures/data")
    point, records = known[options.key], _records(options)
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
