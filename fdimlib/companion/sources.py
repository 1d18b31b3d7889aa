"""What a result depends on: the modules of this package that a piece of code imports, hashed.

Read from the import statements, without importing anything; `import fdimlib` stands for all that
its public names come from.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def modules_of(code: str) -> set[Path]:
    """The files of this package that the imports in `code` lead to, directly or not."""
    found: set[Path] = set()
    ahead = set(_imported(code))
    while ahead:
        found |= ahead
        ahead = {path for module in ahead for path in _imports_of(module)} - found
    return found


@cache
def _imports_of(module: Path) -> frozenset[Path]:
    return frozenset(_imported(module.read_text(encoding="utf-8")))


def _imported(code: str) -> Iterator[Path]:
    """The files that the import statements in `code` name, those of `from … import` included."""
    for node in ast.walk(ast.parse(code)):
        names: Iterable[str] = ()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] == "fdimlib":
                yield from _files(name)


def _files(name: str) -> Iterator[Path]:
    path = PACKAGE.parent.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            yield candidate


def digest(*texts: str, files: Iterable[Path] = ()) -> str:
    """A hash of texts and of the names and contents of files; those that are absent count too."""
    hashed = hashlib.sha256()
    for text in texts:
        hashed.update(f"{len(text)}:{text}".encode())
    for path in sorted(set(files)):
        content = path.read_bytes() if path.exists() else b"absent"
        hashed.update(f"{path.name}:{len(content)}:".encode())
        hashed.update(content)
    return hashed.hexdigest()[:32]
