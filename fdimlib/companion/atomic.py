"""Files that are there whole or not at all, whoever reads or dies meanwhile."""

import os
from pathlib import Path
from threading import get_ident


def replace(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it; make its folder where there is none.

    Raises:
        OSError: the disk does not take it; what was there before still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
