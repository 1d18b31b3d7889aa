"""Networks in `.pt2` archives of `torch.export`, read without running any code of theirs.

An archive is a zip file. The program is JSON (`models/model.json`); each tensor is the raw bytes of
its storage (`data/weights/weight_0`, …) beside JSON that tells its dtype, sizes and strides; the
example inputs are a pickle. What `torch.export.load` does with the parts, in torch 2.13:

- example inputs: unpickled by `torch.load(weights_only=True)`, and when that fails by
  `weights_only=False`, which runs whatever the pickle says;
- tensors and constants marked `use_pickle`, custom objects, and tensors in the layout of older
  versions: unpickled without any restriction;
- symbolic sizes in the program: handed to `sympy.sympify`, which evaluates them as Python.

So it is not called here. JSON and raw bytes are all that is read; the example inputs and symbolic
sizes are left alone, and a pickled tensor is refused. Which programs can be read:
`fdimlib.exported`.
"""

import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdimlib.exported import chain

SCHEMA = 8  # major version of the program's JSON, in torch 2.13 and 2.14
DTYPES = {6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}
"""The floating dtypes by their numbers there (`torch._export.serde.schema.ScalarType`)."""

DAMAGE = (
    # of the zip file
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError,
    # of the JSON: no such text, or of another form
    json.JSONDecodeError, UnicodeDecodeError, RecursionError,
    AttributeError, LookupError, TypeError,
)


def read_archive(path: Path) -> nn.Sequential:
    """The network in an archive that holds one exported program, a chain of supported operators.

    Raises:
        ValueError: not such an archive, or a program that is not such a chain; the message says
            which part, operator or argument it is.
    """
    try:
        with zipfile.ZipFile(path) as file:
            archive = Archive(file)
            return nn.Sequential(*chain(archive.program(), archive.parameter))
    except DAMAGE as damage:
        raise ValueError(f"path: {path.name} is not an archive as torch.export.save writes it "
                         f"in torch 2.13 ({type(damage).__name__}: {damage})") from None


class Archive:
    """The parts of an open archive that are JSON or raw bytes."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file
        self.root = file.namelist()[0].split("/")[0]
        if self._read("archive_format") != b"pt2" or self._read("archive_version") != b"0":
            raise ValueError("path: an archive of another format than torch 2.13 writes")
        byte_order = self._read("byteorder").decode()
        if byte_order != sys.byteorder:
            raise ValueError(f"path: its numbers are {byte_order}-endian, this machine's are not")
        self.model = self._only_model()
        self.storages: dict[str, Tensor] = {}

    def _read(self, part: str) -> bytes:
        return self.file.read(f"{self.root}/{part}")

    def _only_model(self) -> str:
        parts = [name.removeprefix(f"{self.root}/") for name in self.file.namelist()]
        models = [Path(part).stem for part in parts if part.startswith("models/")]
        if len(models) != 1:
            raise ValueError(f"path: holds {len(models)} exported programs ({', '.join(models)}); "
                             "give an archive of one")
        return models[0]

    def program(self) -> dict[str, Any]:
        """The graph and the signature of the exported program, as JSON has them."""
        exported = json.loads(self._read(f"models/{self.model}.json"))
        version = exported["schema_version"]["major"]
        if version != SCHEMA:
            raise ValueError(f"path: its program is written in schema {version}; "
                             f"schema {SCHEMA}, of torch 2.13 and 2.14, can be read")
        program: dict[str, Any] = exported["graph_module"]
        return program

    def parameter(self, name: str) -> nn.Parameter:
        """A parameter by its name in the module; those that share a storage share it here."""
        listed = json.loads(self._read(f"data/weights/{self.model}_weights_config.json"))["config"]
        entry, meta = listed[name], listed[name]["tensor_meta"]
        if entry["use_pickle"]:
            raise ValueError(f"path: its tensor {name!r} is pickled, and unpickling may run code; "
                             "export the module with plain tensors")
        if meta["dtype"] not in DTYPES:
            raise ValueError(f"path: its tensor {name!r} has the dtype of number {meta['dtype']}; "
                             f"supported are {', '.join(map(str, DTYPES.values()))}")
        storage = self._storage(entry["path_name"], DTYPES[meta["dtype"]])
        sizes, strides = ([n["as_int"] for n in meta[key]] for key in ("sizes", "strides"))
        try:
            view = storage.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
        except RuntimeError:
            raise ValueError(f"path: its tensor {name!r} of sizes {sizes} and strides {strides} "
                             f"does not fit into the {storage.nbytes} bytes stored") from None
        return nn.Parameter(view, meta["requires_grad"])

    def _storage(self, part: str, dtype: torch.dtype) -> Tensor:
        if part not in self.storages:
            content = self._read(f"data/weights/{part}")
            if len(content) < dtype.itemsize or len(content) % dtype.itemsize:
                raise ValueError(f"path: {len(content)} bytes in {part} are no numbers of {dtype}")
            self.storages[part] = torch.frombuffer(bytearray(content), dtype=dtype)
        return self.storages[part]
