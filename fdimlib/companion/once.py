"""Training runs that are kept: the same run in another notebook, or another day, is read back.

`train_once` is `train`, bit by bit. What it gave lies in trained/ of the build folder, under a hash
of the weights at the start, the inputs, the labels, the options, the version of torch and the
source of what trains; so nothing is read that training would not give again. Nothing is pickled.
"""

import copy
import hashlib
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fdimlib.companion import build_folder, sources
from fdimlib.companion.atomic import replace
from fdimlib.companion.training import Checkpoint, train

DEFAULTS = {name: option.default for name, option in inspect.signature(train).parameters.items()
            if option.kind is option.KEYWORD_ONLY and name != "checkpoints"}
USUAL = (40, 80, 280, 680)  # the authors' checkpoints, kept even where fewer are asked for


def train_once(
    model: nn.Sequential, x: Tensor, y: Tensor, *, epochs: int | None = None,
    checkpoints: tuple[int, ...] | list[int] = USUAL, **options: Any,
) -> list[Checkpoint]:
    """What `train(model, x, y, …)` gives, from the records where such a run is kept.

    Where nothing can be written it trains without keeping.

    Args:
        model, x, y, epochs, checkpoints, options: see `training.train`.
    """
    epochs = max(checkpoints) if epochs is None else epochs
    wanted = {0, epochs, *(epoch for epoch in checkpoints if epoch <= epochs)}
    setting = DEFAULTS | {"epochs": epochs, "progress": False} | options
    path = build_folder() / "trained" / f"{_key(model, x, y, setting)}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            kept = _kept(path, model, wanted)
            if kept is None:
                usual = {epoch for epoch in USUAL if epoch <= epochs}
                kept = train(model, x, y, checkpoints=sorted(wanted | usual), **setting)
                replace(path, _as_bytes(kept))
    except OSError as problem:
        warnings.warn(f"build: {path.parent} takes no records ({problem}); trained without",
                      stacklevel=2)
        return train(model, x, y, checkpoints=sorted(wanted), **setting)
    return [checkpoint for checkpoint in kept if checkpoint.epoch in wanted]


def _key(model: nn.Sequential, x: Tensor, y: Tensor, setting: dict[str, Any]) -> str:
    tensors = hashlib.sha256()
    for tensor in (*model.state_dict().values(), x, y):
        tensors.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        tensors.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    code = sources.modules_of("from fdimlib.companion.training import train")
    return sources.digest(str(model), tensors.hexdigest(), torch.__version__,
                          json.dumps(setting, sort_keys=True, default=str), files=code)


def _as_bytes(kept: list[Checkpoint]) -> bytes:
    weights = {f"{checkpoint.epoch}/{name}": tensor.contiguous() for checkpoint in kept
               for name, tensor in checkpoint.model.state_dict().items()}
    facts = [[checkpoint.epoch, checkpoint.loss, checkpoint.accuracy] for checkpoint in kept]
    return save(weights, {"checkpoints": json.dumps(facts),
                          "history": json.dumps(kept[-1].history)})


def _kept(path: Path, model: nn.Sequential, wanted: set[int]) -> list[Checkpoint] | None:
    """The run in a file; None where there is none with all the epochs that are wanted."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["checkpoints"])
            history = tuple(json.loads(file.metadata()["history"]))
            if not wanted <= {epoch for epoch, *_ in facts}:
                return None
            return [Checkpoint(epoch, _with_weights(model, file, epoch), loss, accuracy,
                               history[:epoch]) for epoch, loss, accuracy in facts]
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as damage:
        warnings.warn(f"record {path.name} cannot be used ({damage}); trained again", stacklevel=3)
        return None


def _with_weights(model: nn.Sequential, file: Any, epoch: int) -> nn.Sequential:
    network = copy.deepcopy(model)
    network.load_state_dict({name: file.get_tensor(f"{epoch}/{name}")
                             for name in model.state_dict()})
    network.zero_grad(set_to_none=True)
    return network
