"""Folders of images in the IDX format, MNIST's and those that are made like it.

They are read under the names they have in the wild, found below the folder named where torchvision
puts them, and called MNIST only when they hold it.
"""

import gzip
import math
import os
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from fdimlib.companion.packaged import Pool, is_mnist

BELOW = ("", "raw", "MNIST/raw", "MNIST", "mnist")  # torchvision's MNIST/raw, and what is near it
STANDARD = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SPELLINGS = re.compile(
    r"(?P<set>|.+[-_.])(?P<part>train|t10k|test)[-_.](?P<what>images|labels)[-_.]idx[13][-_.]ubyte"
    r"(\.gz)?", re.IGNORECASE)
"""train-images-idx3-ubyte, train-images.idx3-ubyte.gz, emnist-digits-test-labels-idx1-ubyte, …"""

FileState = tuple[Path, int, int, int, int]


def read_folder(named: str, root: str | Path) -> Pool:
    """The images in a folder: those for training, then those for testing.

    Args:
        named: what the user calls it, an argument or an environment variable; errors begin with it.
        root: the folder, or one and the beginning of its files' names where it holds several sets
            (data/emnist-digits). `~` is expanded, and relative folders are relative to where the
            process is now.

    Raises:
        FileNotFoundError: it lacks one of the files; what comes near is listed.
        ValueError: a file is damaged, the folder holds several sets, or images and labels do not
            belong together.
    """
    if not isinstance(root, str | os.PathLike) or not str(root):
        raise ValueError(f"{named}: found {root!r}; give the path of a folder")
    try:
        files = _find(named, Path(root).expanduser().resolve())
        return _read(named, tuple(_state(path) for path in files))
    except PermissionError as problem:
        raise PermissionError(f"{named}: {problem.filename} cannot be read "
                              f"({problem.strerror})") from problem


def _state(path: Path) -> FileState:
    """What changes when a file is replaced or written again."""
    found = path.stat()
    return path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=2)
def _read(named: str, files: tuple[FileState, ...]) -> Pool:
    """Read four files; keyed by their states, so that other files are never taken for them."""
    paths = [path for path, *_ in files]
    parts = []
    for part, (for_images, for_labels) in zip(("train", "t10k"), (paths[:2], paths[2:])):
        images, labels = _read_idx(named, for_images, 3), _read_idx(named, for_labels, 1)
        if len(images) != len(labels) or images.shape[1:] != (28, 28):
            raise ValueError(f"{named}: {for_images.parent} holds {len(images)} {part} images of "
                             f"shape {images.shape[1:]} but {len(labels)} labels; as many labels "
                             "as images of 28 × 28 pixels belong together")
        parts.append((images, labels))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    mnist = is_mnist(images, labels)
    what = "MNIST digits" if mnist else f"images ({_span(labels)}; not the MNIST digits)"
    return Pool(images, labels, f"{len(images):,} {what} in {_place(paths)}", mnist)


def _span(labels: np.ndarray) -> str:
    return f"labels {labels.min()} to {labels.max()}" if len(labels) else "no labels"


def _place(paths: list[Path]) -> str:
    """The folder, with the beginning of the names where they have one: data/emnist-digits."""
    match = SPELLINGS.fullmatch(paths[0].name)
    return str(paths[0].parent / match["set"].rstrip("-_.") if match else paths[0].parent)


def _find(named: str, root: Path) -> list[Path]:
    """The four files, in the order of STANDARD."""
    places = [root / below for below in BELOW]
    sets = [(place, _sets(place)) for place in places if place.is_dir()]
    if not root.is_dir() and root.parent.is_dir():
        sets = [(root.parent, {name: files for name, files in _sets(root.parent).items()
                               if name == root.name.lower()})]
    for place, found in sets:
        whole = {name: files for name, files in found.items() if len(files) == len(STANDARD)}
        plain = whole.get("") or (next(iter(whole.values())) if len(whole) == 1 else None)
        if plain:
            return [plain[name] for name in STANDARD]
        if whole:
            raise ValueError(f"{named}: {place} holds {len(whole)} sets, {', '.join(whole)}; "
                             f"name one of them: {place / sorted(whole)[0]}")
    raise FileNotFoundError(f"{named}: {_lack(root, dict(sets))}; it must hold the four standard "
                            f"MNIST files{_near(root)}")


def _sets(place: Path) -> dict[str, dict[str, Path]]:
    """The sets of files in a folder: beginning of their names → standard name → file.

    Of several spellings of one name the standard one is taken, and before compressed ones.
    """
    sets: dict[str, dict[str, Path]] = {}
    for path in sorted(place.iterdir(), key=lambda path: (path.suffix.lower() == ".gz", path.name)):
        match = SPELLINGS.fullmatch(path.name)
        if match and path.is_file():
            part = "train" if match["part"].lower() == "train" else "t10k"
            what = match["what"].lower()
            name = next(name for name in STANDARD if name.startswith(f"{part}-{what}"))
            sets.setdefault(match["set"].lower().rstrip("-_."), {}).setdefault(name, path)
    return sets


def _lack(root: Path, sets: dict[Path, dict[str, dict[str, Path]]]) -> str:
    """What is missing where most is there."""
    if not root.exists() and not any(sets.values()):
        return f"{root} does not exist"
    if root.is_file():
        return f"{root} is a file, not a folder"
    started = [(len(files), place, files) for place, found in sets.items()
               for files in found.values()]
    _, place, files = max(started, key=lambda one: one[0], default=(0, root, {}))
    missing = next(name for name in STANDARD if name not in files)
    return f"{place} has no {missing} or {missing}.gz"


def _near(root: Path) -> str:
    """A list of what may have been meant, from the folder or, where it is none, the one above."""
    folder = root if root.is_dir() else root.parent
    names = [str(path.relative_to(folder)) for path in islice(_candidates(folder), 6)]
    if not names:
        return ""
    return f"; near names in {folder}: {', '.join(names)}"


def _candidates(folder: Path) -> Iterator[Path]:
    """Files and folders that have to do with it, the nearest first."""
    for pattern in ("*", "*/*ubyte*", "*/raw/*ubyte*"):
        for path in sorted(folder.glob(pattern)):
            if re.search(r"mnist|ubyte|(train|test|t10k).*(image|label)|^raw$", path.name.lower()):
                yield path


def _read_idx(named: str, path: Path, dimensions: int) -> np.ndarray:
    """The IDX format: magic (0, 0, 8 = uint8, dimensions), big-endian sizes, then the bytes."""
    raw = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as damage:
            raise ValueError(f"{named}: {path} is not a complete gzip file ({damage}); "
                             "fetch it again") from damage
    begin = 4 + 4 * dimensions
    complete = raw[:4] == bytes([0, 0, 8, dimensions]) and len(raw) >= begin
    shape = np.frombuffer(raw[4:begin], ">u4").tolist() if complete else []
    if not complete or len(raw) != begin + math.prod(shape):
        raise ValueError(f"{named}: {path} is not a complete IDX file of {dimensions} dimensions; "
                         "fetch it again")
    return np.frombuffer(raw, np.uint8, offset=begin).reshape(shape)
