"""Results on disk, one JSON file a point, so that a sweep can be killed at any moment and go on.

A record is written under a temporary name and renamed, so it is there whole or not at all. A file
that cannot be read, or that answers another question than its name says, is no record: a warning
says so, and the file is set aside when its point is computed again. Asking writes nothing.
Published tables (figures/data/) count as records too: a fresh clone begins where the last ended.
"""

import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from fdimlib.companion.experiments import FIELDS, PROTOCOL, Point, Run

SVD_COLUMNS = (
    "exact_logits", "svd_float32_softmax", "svd_float64_softmax", "svd_float32_logits",
    "svd_float64_logits", "svd_seconds",
)

ABSENT = (FileNotFoundError, NotADirectoryError)
DAMAGE = (ValueError, KeyError, TypeError)  # what reading a file that is no record can raise


class Records:
    """The results in a folder, beside those of published tables.

    Args:
        folder: where the files are; made when the first is written.
        published: CSV files as `table` gives them; those that do not exist are left out.
    """

    def __init__(self, folder: str | Path, published: Iterable[Path] = ()) -> None:
        self.folder = Path(folder)
        self.published: dict[Point, dict[str, Any]] = {}
        for path in published:
            if Path(path).exists():
                self.published |= _read_table(path)

    def get(self, point: Point) -> dict[str, Any] | None:
        """The result at that point; None where there is none, or only a failure."""
        record = self._read(point)
        return self.published.get(point) if record is None else record.get("result")

    def error(self, point: Point) -> str | None:
        """What went wrong at that point when it was last tried."""
        return (self._read(point) or {}).get("error")

    def state(self, point: Point) -> str:
        """done, running (its training run is in some process's hands), failed or missing."""
        if self.get(point) is not None:
            return "done"
        if _held(self._lock(point.run)):
            return "running"
        return "failed" if self.error(point) else "missing"

    def put(self, point: Point, **outcome: Any) -> None:
        """Write `result=` (a dict of JSON values) or `error=` (a sentence).

        Raises:
            OSError: the disk does not take it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(point)
        self._set_aside_if_damaged(point)
        text = json.dumps({"point": point.fields, "protocol": PROTOCOL} | outcome, indent=1)
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Whether this process may compute the points of `run`.

        The claim ends with the block, or with the process.
        """
        path = self._lock(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0.1, poll_interval=0.01)  # a query holds it for a moment
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _path(self, point: Point) -> Path:
        return self.folder / f"{point.key}.json"

    def _lock(self, run: Run) -> Path:
        return self.folder / "locks" / f"{run.key}.lock"

    def _read(self, point: Point) -> dict[str, Any] | None:
        """The record of a point; None where there is none that can be used."""
        try:
            return self._load(point)
        except ABSENT:
            return None
        except DAMAGE as damage:
            warnings.warn(f"record {self._path(point).name} cannot be used ({damage}); its point "
                          "counts as missing until a sweep computes it again", stacklevel=4)
            return None

    def _load(self, point: Point) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self._path(point).read_text(encoding="utf-8"))
        same_setting = record["point"] == point.fields and record["protocol"] == PROTOCOL
        if not same_setting or not {"result", "error"} & set(record):
            raise ValueError("its setting is not the one its name stands for")
        return record

    def _set_aside_if_damaged(self, point: Point) -> None:
        path = self._path(point)
        try:
            self._load(point)
        except ABSENT:
            return
        except DAMAGE:
            earlier = sum(1 for _ in self.folder.glob(f"{path.stem}.aside-*"))
            path.replace(path.with_suffix(f".aside-{earlier}"))


def _held(lock: Path) -> bool:
    """Whether some process holds a lock; nothing is made or written to find out."""
    try:
        import fcntl  # not on Windows, where nobody can be asked
    except ImportError:
        return False
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except ABSENT:
        return False
    except BlockingIOError:
        return True
    return False


def table(records: Records, points: list[Point]) -> pd.DataFrame:
    """The finished points as a table, one row a network and input set.

    Numerical ranks stand beside the exact ones; those of other weights (another machine may have
    trained them) are left out.
    """
    rows = []
    columns = [name for name in FIELDS
               if name != "method" and any(name in point.fields for point in points)]
    for point in (point for point in points if point.method != "svd"):
        result = records.get(point)
        if result is not None:
            numerical = records.get(Point.from_fields(point.fields | {"method": "svd"})) or {}
            same = numerical.get("weights") == result["weights"]
            every = asdict(point.run) | point.fields
            setting = {name: every[name] for name in columns}
            counts = {name: numerical.get(name) if same else None for name in SVD_COLUMNS}
            rows.append({"key": point.key, "protocol": PROTOCOL} | setting | result | counts)
    return pd.DataFrame(rows)


def _read_table(path: Path) -> dict[Point, dict[str, Any]]:
    """Point → result, from a table written by `table(…).to_csv`."""
    results = {}
    for row in pd.read_csv(path).astype(object).to_dict("records"):
        row = {name: None if pd.isna(value) else value for name, value in row.items()}
        setting = {name: row.pop(name) for name in FIELDS if name in row}
        told_by = {"explained": "explain", "losses": "losses", "exact": "exact"}
        method = next(method for column, method in told_by.items() if column in row)
        point = Point.from_fields(setting | {"method": method})
        if row.pop("protocol") != PROTOCOL or row.pop("key") != point.key:
            continue
        numerical = {name: row.pop(name) for name in SVD_COLUMNS}
        results[point] = row
        if numerical["svd_seconds"] is not None:
            counted = Point.from_fields(setting | {"method": "svd"})
            results[counted] = numerical | {"weights": row["weights"]}
    return results
