"""The paper's training protocol: plain SGD, with copies of the network kept at given epochs."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from fdimlib.arrays import integers, rounded_to
from fdimlib.reading import Network, read_inputs, read_network
from fdimlib.symmetries import round_to_grid_
from fdimlib.validation import (
    flag,
    items,
    real_number,
    seed_number,
    untouched,
    whole_number,
)


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """The network after `epoch` epochs, and how well it does on the training inputs.

    Attributes:
        loss: mean cross-entropy, in nats.
        accuracy: from 0 to 1.
        history: the mean cross-entropy of every epoch so far, each batch before its step.
    """

    epoch: int
    model: nn.Sequential
    loss: float
    accuracy: float
    history: tuple[float, ...]

    def __repr__(self) -> str:
        return f"epoch {self.epoch}: loss {self.loss:.3g}, accuracy {self.accuracy:.1%}"


@untouched
@torch.inference_mode(False)
@torch.enable_grad()
def train(
    model: nn.Sequential, x: Tensor | ArrayLike, y: Tensor | ArrayLike, *,
    epochs: int | None = None, checkpoints: Sequence[int] = (40, 80, 280, 680),
    lr: float = 0.1, decay: float = 0.0, batch_size: int = 256, seed: int = 0,
    progress: bool = True,
) -> list[Checkpoint]:
    """Train a copy of `model`; return it at epoch 0, at each checkpoint, and at the end.

    SGD without momentum on the softmax cross-entropy, reshuffled every epoch, the last, smaller
    batch kept: the paper's protocol. After every step the parameters are rounded to multiples of
    2^-26, so that a float64 run does not depend on the machine (`symmetries.round_to_grid_`). The
    model itself stays as it is; precision and device are the model's own.

    Args:
        model: network with one output a class; a final Softmax is left out of the loss. Frozen
            parameters (`requires_grad=False`) stay as they are.
        x, y: inputs (n, N_0) and integer labels (n,).
        epochs: None: up to the last checkpoint. Checkpoints beyond `epochs` are not reached.
        lr, decay: the learning rate after e epochs is lr / (1 + decay · e); the protocol has no
            decay.
        seed: of the shuffling; together with the model it determines the run.

    Raises:
        TypeError, ValueError: labels that do not fit the network or the inputs, or options out of
            range.
        FloatingPointError: the loss became NaN or infinite; the learning rate is too high.

    >>> import fdimlib as fd
    >>> digits = fd.mnist_sample(100, 10)
    >>> net = fd.relu_mlp([784, 5, 10])
    >>> fd.train(net, digits.x_train, digits.y_train, epochs=2, progress=False)[-1].epoch
    2
    """
    network = read_network(model)
    inputs, labels = _in_precision_of(network, read_inputs(network, x), y)
    kept_at = [whole_number("checkpoints", epoch, 0)
               for epoch in items("checkpoints", checkpoints, "(40, 80)")]
    epochs = whole_number("epochs", max(kept_at, default=0) if epochs is None else epochs, 1)
    batch_size = min(whole_number("batch_size", batch_size, 1), len(inputs))
    lr, decay = real_number("lr", lr, above=0), real_number("decay", decay, 0)
    generator = torch.Generator().manual_seed(seed_number("seed", seed))
    progress = flag("progress", progress)

    model = copy.deepcopy(model)
    logits = _without_softmax(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("model: all its parameters are frozen, so that nothing can be trained; "
                         "call model.requires_grad_() first")
    optimizer = torch.optim.SGD(trained, lr=lr)
    schedule = LambdaLR(optimizer, lambda finished: 1 / (1 + decay * finished))
    history: list[float] = []
    kept = [_checkpoint(0, model, inputs, labels, history)]
    steps = tqdm(range(1, epochs + 1), desc="training", unit="epoch", delay=2, disable=not progress)
    for epoch in steps:
        total = 0.0
        order = torch.randperm(len(inputs), generator=generator, device="cpu")
        for batch in order.split(batch_size):
            optimizer.zero_grad()
            loss = cross_entropy(logits(inputs[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            round_to_grid_(trained)
            total += loss.item() * len(batch)
        schedule.step()
        history.append(total / len(inputs))
        if epoch in kept_at or epoch == epochs:
            kept.append(_checkpoint(epoch, model, inputs, labels, history))
    return kept


def _in_precision_of(
    network: Network, inputs: Tensor, y: Tensor | ArrayLike,
) -> tuple[Tensor, Tensor]:
    """Inputs in the network's precision, and the labels, where the network is."""
    network.dtype()
    labels = integers("y", y, len(inputs), network.widths[-1] - 1)
    return rounded_to(inputs, network.linears[0].weight, "x"), labels.to(network.device)


def _without_softmax(model: nn.Sequential) -> nn.Sequential:
    """The same layers, parameters shared, up to the logits."""
    return nn.Sequential(*(layer for layer in model if type(layer) is not nn.Softmax))


@untouched
def evaluate(
    model: nn.Sequential, x: Tensor | ArrayLike, y: Tensor | ArrayLike,
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (0 to 1) on inputs (n, N_0) and labels (n,).

    Raises:
        TypeError, ValueError: inputs or labels that do not fit the network.
    """
    network = read_network(model)
    return _evaluate(model, *_in_precision_of(network, read_inputs(network, x), y))


@torch.no_grad()
def _evaluate(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[float, float]:
    out = _without_softmax(model)(x)
    return cross_entropy(out, y).item(), (out.argmax(dim=1) == y).cpu().double().mean().item()


def _checkpoint(
    epoch: int, model: nn.Sequential, x: Tensor, y: Tensor, history: list[float],
) -> Checkpoint:
    loss, accuracy = _evaluate(model, x, y)
    if not loss < float("inf"):
        raise FloatingPointError(f"lr: training diverged: the loss is {loss} after epoch {epoch}; "
                                 "lower lr")
    frozen = copy.deepcopy(model)
    frozen.zero_grad(set_to_none=True)
    return Checkpoint(epoch, frozen, loss, accuracy, tuple(history))
