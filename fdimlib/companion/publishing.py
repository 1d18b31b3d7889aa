"""A new figure meets the published one.

The same table, caption and picture: nothing is written. Not the same, or made with other
parameters: the new files go to figures/ in the build folder, with a note that says why, the
published ones stay as they are, and the reader is told. Only `make refresh` overwrites what is
published.
"""

import io
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fdimlib.companion import build_folder, figures_folder, provenance
from fdimlib.companion.atomic import replace
from fdimlib.companion.compared import Difference, as_text, differing_cells, differing_pixels

REFRESH_VARIABLE = "FDIMLIB_REFRESH"
"""Set by `make refresh`, and by nothing else."""


@dataclass(frozen=True)
class Outcome:
    """What became of a figure.

    Attributes:
        state: "same"; "differs"; or "other", not compared: the published one was made with other
            parameters, or there is none.
        told: for the reader; empty where all is the same.
    """

    figure: str
    state: str
    told: str = ""
    differences: tuple[Difference, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Drawn:
    """A figure with all that goes into its files.

    Attributes:
        picture: as PNG, whose text chunks hold caption and alternative text.
        table: all that is drawn.
        tolerance, noise: see `compared.differing_cells`.
        origin: its provenance.
    """

    name: str
    fig: Figure
    picture: bytes
    caption: str
    table: pd.DataFrame
    tolerance: float
    noise: Collection[str]
    origin: dict[str, Any]

    def files(self) -> dict[str, bytes]:
        """Name → content: the picture twice, and its table."""
        text, pdf = as_text(self.table), io.BytesIO()
        origin = self.origin | {"table": provenance.digest(text)}
        self.fig.savefig(pdf, format="pdf", bbox_inches="tight", metadata={
            "CreationDate": None, "Title": self.name,
            "Keywords": provenance.as_keywords(origin)})
        return {f"{self.name}.png": _with_origin(self.picture, provenance.as_keywords(origin)),
                f"{self.name}.pdf": pdf.getvalue(), f"data/{self.name}.csv": text.encode()}


def publish(drawn: Drawn) -> Outcome:
    """Compare a figure with the published one, and write files where they are not the same."""
    published, fresh = figures_folder(), build_folder() / "figures"
    outcome = _compare(drawn, published)
    if os.environ.get(REFRESH_VARIABLE):
        if not (outcome.state == "same" and _is_complete(drawn, published)):
            _write(drawn, published)
        return Outcome(drawn.name, "same")
    if outcome.state == "same":
        _remove(drawn.name, fresh)
        return outcome
    told = f"{outcome.told}; its files: {fresh / drawn.name}.*"
    try:
        _write(drawn, fresh)
        replace(fresh / f"{drawn.name}.txt", f"{told}\n".encode())
    except OSError as problem:
        told = f"{outcome.told}; its files cannot be written to {fresh} ({problem.strerror})"
    return changed(outcome, told=told)


def _compare(drawn: Drawn, published: Path) -> Outcome:
    """A figure and the published one of its name; nothing is written."""
    name, ours = drawn.name, drawn.origin["parameters"]
    files = published / f"{name}.png", published / "data" / f"{name}.csv"
    if not any(path.exists() for path in files):
        return Outcome(name, "other", f"{name} is not published")
    theirs = _origin_of(drawn, published).get("parameters", ours)
    if theirs != ours:
        return Outcome(name, "other", f"{name} is made with {_said(ours)}, "
                                      f"the published one with {_said(theirs)}")
    differences = tuple(_differences(drawn, published))
    if not differences:
        return Outcome(name, "same")
    return Outcome(name, "differs", f"{name} is not the published one: {differences[0]}",
                   differences)


def _origin_of(drawn: Drawn, published: Path) -> dict[str, Any]:
    """The provenance of the published figure; empty where it has none."""
    picture = published / f"{drawn.name}.png"
    return (provenance.read(picture) if picture.exists() else None) or {}


def _is_complete(drawn: Drawn, published: Path) -> bool:
    """Whether the published figure has its PDF, and comes from a commit as it is."""
    origin = _origin_of(drawn, published)
    return origin.get("dirty") is False and (published / f"{drawn.name}.pdf").exists()


def _said(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def _differences(drawn: Drawn, published: Path) -> list[Difference]:
    """In the table; where it is the same, in the caption and in the picture.

    A picture that shows noise is not compared.
    """
    table, picture = published / "data" / f"{drawn.name}.csv", published / f"{drawn.name}.png"
    found = differing_cells(drawn.table, table, tolerance=drawn.tolerance, noise=drawn.noise)
    if found or (drawn.noise and picture.exists()):
        return found
    if picture.exists():
        caption = provenance.png_text(picture).get("Description", "")
        if caption != drawn.caption:
            return [Difference("caption", 0, caption, drawn.caption)]
    return differing_pixels(drawn.picture, picture)


def _write(drawn: Drawn, folder: Path) -> None:
    for name, content in drawn.files().items():
        replace(folder / name, content)


def _remove(name: str, folder: Path) -> None:
    """Take away what an earlier run found to differ."""
    for kind in ("png", "pdf", "txt"):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)
    (folder / "data" / f"{name}.csv").unlink(missing_ok=True)


def _with_origin(picture: bytes, origin: str) -> bytes:
    """A PNG with its provenance as one more text chunk."""
    texts, file = PngInfo(), io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        for name, value in image.info.items():
            if isinstance(value, str):
                texts.add_text(str(name), value)
        texts.add_text(provenance.PNG_CHUNK, origin)
        image.save(file, "png", pnginfo=texts, dpi=image.info["dpi"])
    return file.getvalue()
