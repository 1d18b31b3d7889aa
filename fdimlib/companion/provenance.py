"""Where a figure comes from, written into its files and read back from them.

PNG files hold it as a text chunk, PDF files as keywords, both in JSON. A table lies beside its
figure's PNG, which holds a hash of it. `python -m fdimlib about FILE` prints it.
"""

import hashlib
import json
import re
import subprocess
import sys
from argparse import Namespace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image

from fdimlib.companion import REPOSITORY

PNG_CHUNK = "fdimlib"


@cache
def commit(notebook: str = "") -> tuple[str, bool]:
    """The clone's commit, and whether a notebook or the library has been changed since.

    Outside a clone, or without git: ("unknown", True).
    """
    try:
        head = _git("rev-parse", "HEAD")
        sources = ["fdimlib", "pyproject.toml", "requirements.lock"]
        sources += [f"notebooks/{notebook}"] if notebook else []
        return head, bool(_git("status", "--porcelain", "--", *sources))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True,
                          text=True, check=True)
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Of the package and of torch, without importing torch."""
    found = {}
    for package, distribution in (("package", "fdimlib"), ("torch", "torch")):
        try:
            found[package] = version(distribution).split("+")[0]
        except PackageNotFoundError:  # a clone that is not installed
            found[package] = "unknown"
    return found


def digest(text: str) -> str:
    """Sixteen hexadecimal digits that tell texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def png_text(path: Path) -> dict[str, str]:
    """All that is written in a PNG file beside the pixels, which are not read."""
    with Image.open(path) as picture:
        return {str(name): str(value) for name, value in picture.info.items()}


def read(path: Path) -> dict[str, Any] | None:
    """The provenance in a PNG or PDF file, or of a table; None where there is none.

    Raises:
        OSError: the file cannot be read.
    """
    if path.suffix == ".pdf":
        found = re.search(rb"/Keywords \((.*?)(?<!\\)\)", path.read_bytes(), re.DOTALL)
        text = found[1].decode("latin-1").replace(r"\\", "\\") if found else None
    elif path.suffix == ".png":
        text = png_text(path).get(PNG_CHUNK)
    else:
        return _of_table(path)
    return dict(json.loads(text)) if text else None


def _of_table(path: Path) -> dict[str, Any] | None:
    """What its figure's PNG says, and whether the table is still the one that was drawn."""
    picture = path.parent.parent / f"{path.stem}.png"
    found = read(picture) if picture.exists() else None
    if found:
        now = digest(path.read_text(encoding="utf-8"))
        found["table"] = "as drawn" if found["table"] == now else "changed since it was drawn"
    return found


def as_keywords(provenance: dict[str, Any]) -> str:
    """JSON in ASCII without brackets, which PDF would have to escape."""
    text = json.dumps(provenance, ensure_ascii=True)
    return text.replace("(", r"\u0028").replace(")", r"\u0029")


def about(options: Namespace) -> int:
    """Print where a file comes from; 1 where it does not say."""
    path: Path = options.file
    found = read(path)
    if found is None:
        sys.exit(f"FILE: {path} does not say where it comes from; give a figure (PNG, PDF) that "
                 "`make refresh` or `make figures` wrote, or the table of one (in an experiment's "
                 "table every row says it itself; `rerun KEY` computes one again)")
    for name, value in found.items():
        print(f"{name}: {value}")
    return int(found["table"] == "changed since it was drawn")
