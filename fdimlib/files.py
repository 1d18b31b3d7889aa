"""Networks and samples in files, read as numbers and names: no code that a file carries is run.

A network is a `.safetensors` file, the `state_dict` of an `nn.Sequential` beside the names of its
layers, or a `.pt2` archive of `torch.export` (`fdimlib.archive`). A sample is a `.npy` file.
Pickles (`.pt`, `.pth`, object arrays) are refused: unpickling runs what the file says.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fdimlib.archive import read_archive
from fdimlib.exported import linear_layer
from fdimlib.validation import found, items, untouched

LAYERS = ("Flatten", "Linear", "ReLU", "Softmax")


@untouched
def load_network(path: str | Path, layers: Sequence[str] | None = None) -> nn.Sequential:
    """The network in a file, in the precision that it is stored in.

    Args:
        path: a `.safetensors` file with the tensors "0.weight", "0.bias", "2.weight", …, as
            `state_dict` names them; or a `.pt2` archive, a plain chain of these layers.
        layers: for a `.safetensors` file, the layers in order, "Flatten", "Linear", "ReLU" or
            "Softmax"; None: as the entry "layers" of the file's metadata has them, with spaces
            between. An archive holds its own.

    Raises:
        ValueError: a file of another kind, damaged, or whose tensors do not fit the layers.
        FileNotFoundError: there is none.

    >>> import fdimlib as fd, safetensors.torch, tempfile
    >>> net = fd.relu_mlp([2, 3, 1], seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     safetensors.torch.save_file(net.state_dict(), f"{folder}/net.safetensors")
    ...     load_network(f"{folder}/net.safetensors", ["Linear", "ReLU", "Linear"])
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=1, bias=True)
    )
    """
    path = _path("path", path)
    if path.suffix not in (".safetensors", ".pt2"):
        raise ValueError(f"path: found {path.name}; give a .safetensors file or a .pt2 archive of "
                         "torch.export: other formats may run code when they are read")
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    if path.suffix == ".pt2":
        if layers is not None:
            raise ValueError("layers: a .pt2 archive holds its layers itself; leave them out")
        return read_archive(path)
    tensors, metadata = _read_safetensors(path)
    if layers is not None:
        layers = items("layers", layers, "['Linear', 'ReLU', 'Linear']")
    else:
        layers = metadata.get("layers", "").split()
    if not layers:
        raise ValueError(f"layers: {path.name} names none in its metadata (entry 'layers'); "
                         "give them in order, e.g. Flatten Linear ReLU Linear Softmax")
    return _assemble(layers, tensors)


def _path(name: str, value: object) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: {found(value)}; give the path of a file")
    return Path(value)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as damage:
        raise ValueError(f"path: {path.name} is not a complete safetensors file "
                         f"({damage})") from None


def _assemble(layers: Sequence[str], tensors: dict[str, Tensor]) -> nn.Sequential:
    """The layers in order, each Linear with the tensors of its position; every tensor is used."""
    for position, name in enumerate(layers):
        if not isinstance(name, str) or name not in LAYERS:
            raise ValueError(f"layers: found {name!r} at position {position}; "
                             f"use {', '.join(LAYERS)}")
    modules: list[nn.Module] = []
    unused = dict(tensors)
    for position, name in enumerate(layers):
        if name == "Linear":
            weight, bias = (unused.pop(f"{position}.{key}", None) for key in ("weight", "bias"))
            if weight is None:
                raise ValueError(f"layers: Linear at position {position}, but the file has no "
                                 f"tensor '{position}.weight'; it has {', '.join(tensors)}")
            modules.append(linear_layer(weight, bias, f"layers: Linear at position {position}"))
        else:
            modules.append({"Flatten": nn.Flatten(), "ReLU": nn.ReLU(),
                            "Softmax": nn.Softmax(dim=1)}[name])
    if unused:
        raise ValueError(f"layers: {', '.join(layers)} leave no place for the file's tensors "
                         f"{', '.join(unused)}")
    return nn.Sequential(*modules)


def load_inputs(path: str | Path) -> np.ndarray:
    """The array in a `.npy` file, as `numpy.save` writes it.

    Raises:
        ValueError: a file of another kind, damaged, or holding Python objects.
        FileNotFoundError: there is none.
    """
    path = _path("x", path)
    if not path.is_file():
        raise FileNotFoundError(f"x: there is no file {path}")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, TokenError) as damage:
        raise ValueError(f"x: {path.name} is not an array of numbers as numpy.save writes it "
                         f"({damage})") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"x: {path.name} holds several arrays; give one, written by numpy.save")
    return array
