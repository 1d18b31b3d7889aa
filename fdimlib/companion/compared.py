"""Is a new table the published one? And a new picture?

Whole numbers, booleans and words must be the same; other numbers to a relative tolerance, because
processors round differently; what only timing or rounding decides is not compared at all.
"""

import io
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.testing.compare import calculate_rms
from numpy.typing import NDArray
from PIL import Image

MOST_LISTED = 5  # differences of one table, for a report that can be read
PICTURE_TOLERANCE = 1.0
"""Root mean square over all pixels, of 255: smoothed edges may differ, a word may not."""


@dataclass(frozen=True)
class Difference:
    """What a published table says in one place, and what was found there now.

    Attributes:
        column: its name; empty where the whole table, the caption or the picture is meant.
        row: counted from 1; 0 where no single row is meant.
    """

    column: str
    row: int
    published: str
    found: str

    def __str__(self) -> str:
        place = f"column {self.column}, " if self.column else ""
        place += f"row {self.row}: " if self.row else ""
        return f"{place}published {self.published or 'nothing'}, now {self.found or 'nothing'}"


def as_text(table: pd.DataFrame) -> str:
    """A table as it is published: CSV, numbers to nine digits.

    >>> as_text(pd.DataFrame({"n": [3], "share": [1 / 3]}))
    'n,share\\n3,0.333333333\\n'
    """
    return str(table.to_csv(index=False, lineterminator="\n", float_format="%.9g"))


def differing_cells(
    table: pd.DataFrame, published: Path, *, tolerance: float, noise: Collection[str],
) -> list[Difference]:
    """Where a new table is not the published one; at most `MOST_LISTED` places.

    Args:
        published: its CSV file; where there is none, that is the difference.
        tolerance: relative, for numbers that are not whole.
        noise: columns that are not compared.
    """
    if not published.exists():
        return [Difference("", 0, "no table", f"{len(table)} rows")]
    before, now = _cells(published.read_text(encoding="utf-8")), _cells(as_text(table))
    if list(before) != list(now):
        return [Difference("", 0, f"columns {', '.join(before)}", f"columns {', '.join(now)}")]
    if len(before) != len(now):
        return [Difference("", 0, f"{len(before)} rows", f"{len(now)} rows")]
    found = [
        Difference(column, row, old, new)
        for column in now if column not in noise
        for row, (old, new) in enumerate(zip(before[column], now[column]), 1)
        if not _same(old, new, tolerance)
    ]
    return found[:MOST_LISTED]


def _cells(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _same(old: str, new: str, tolerance: float) -> bool:
    """Whether two cells agree; see `differing_cells`."""
    if old == new or (old.isdecimal() and new.isdecimal()):
        return old == new
    try:
        a, b = float(old), float(new)
    except ValueError:
        return False
    if a.is_integer() and b.is_integer():
        return a == b
    return math.isclose(a, b, rel_tol=tolerance)


def differing_pixels(picture: bytes, published: Path) -> list[Difference]:
    """Whether a new PNG shows what the published one shows."""
    if not published.exists():
        return [Difference("", 0, "no picture", "one")]
    before, now = _pixels(published), _pixels(io.BytesIO(picture))
    if before.shape != now.shape:
        return [Difference("", 0, f"{_size(before)} pixels", f"{_size(now)} pixels")]
    distance = calculate_rms(before, now)
    if distance <= PICTURE_TOLERANCE:
        return []
    return [Difference("", 0, "another picture",
                       f"one that is {distance:.1f} of 255 from it, root mean square")]


def _pixels(file: Path | io.BytesIO) -> NDArray[np.float64]:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"), dtype=float)  # bytes would wrap when subtracted


def _size(pixels: NDArray[np.float64]) -> str:
    height, width, _ = pixels.shape
    return f"{width} × {height}"
