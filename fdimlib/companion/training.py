"""The paper's training protocol: plain SGD on the cross-entropy, with copies of the network kept at given epochs."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from fdimlib.reading import read_inputs, read_network
from fdimlib.symmetries import round_to_grid_
from fdimlib.validation import whole_number


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """The network after `epoch` epochs, with its mean cross-entropy (nats) and accuracy (0 to 1) on the training inputs.

    `history` holds the mean cross-entropy of every epoch so far, each batch before the step that it led to.
    """

    epoch: int
    model: nn.Sequential
    loss: float
    accuracy: float
    history: tuple[float, ...]

    def __repr__(self) -> str:
        return f"epoch {self.epoch}: loss {self.loss:.3g}, accuracy {self.accuracy:.1%}"


def train(
    model: nn.Sequential, x, y, *, epochs: int | None = None, checkpoints: Sequence[int] = (40, 80, 280, 680),
    lr: float = 0.1, batch_size: int = 256, seed: int = 0, progress: bool = True,
) -> list[Checkpoint]:
    """Train a copy of `model`; return it at epoch 0, at each checkpoint, and at the end.

    SGD without momentum on the softmax cross-entropy, reshuffled every epoch, the last, smaller batch kept: the paper's
    protocol. After every step the parameters are rounded to multiples of 2^-26, so that a float64 run does not depend on
    the machine (`networks.round_to_grid_`). The model itself stays as it is; precision and device are the model's own.

    Args:
        model: network with one output a class; a final Softmax is understood, and left out of the loss.
        x, y: inputs (n, N_0) and integer labels (n,).
        epochs: None: up to the last checkpoint. Checkpoints beyond `epochs` are not reached.
        seed: of the shuffling; together with the model it determines the run.

    Raises:
        ValueError: labels that do not fit the network or the inputs, or options out of range.
        FloatingPointError: the loss became NaN or infinite; the learning rate is too high.

    >>> import fdimlib as fd
    >>> digits = fd.mnist_sample(100, 10)
    >>> fd.train(fd.relu_mlp([784, 5, 10]), digits.x_train, digits.y_train, epochs=2, progress=False)[-1].epoch
    2
    """
    network = read_network(model)
    x, y = read_inputs(network, x), torch.as_tensor(y)
    classes = network.widths[-1]
    if y.shape != (len(x),) or y.is_floating_point() or y.min() < 0 or y.max() >= classes:
        values = f", values {y.min().item()} to {y.max().item()}" if y.numel() else ""
        raise ValueError(f"y: found shape {tuple(y.shape)}, dtype {y.dtype}{values}; "
                         f"give {len(x)} integer labels from 0 to {classes - 1}")
    checkpoints = [whole_number("checkpoints", epoch, 0) for epoch in checkpoints]
    epochs = whole_number("epochs", max(checkpoints, default=0) if epochs is None else epochs, 1)
    batch_size = whole_number("batch_size", batch_size, 1)
    if not lr > 0:
        raise ValueError(f"lr: found {lr}; give a positive learning rate")

    model = copy.deepcopy(model)
    logits = _without_softmax(model)
    weight = network.linears[0].weight
    x, y = x.to(weight), y.long().to(weight.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    history: list[float] = []
    kept = [_checkpoint(0, model, x, y, history)]
    for epoch in tqdm(range(1, epochs + 1), desc="training", unit="epoch", delay=2, disable=not progress):
        total = 0.0
        for batch in torch.randperm(len(x), generator=generator).split(batch_size):
            optimizer.zero_grad()
            loss = cross_entropy(logits(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            round_to_grid_(model.parameters())
            total += loss.item() * len(batch)
        history.append(total / len(x))
        if epoch in checkpoints or epoch == epochs:
            kept.append(_checkpoint(epoch, model, x, y, history))
    return kept


def _without_softmax(model: nn.Sequential) -> nn.Sequential:
    """The same layers, parameters shared, up to the logits."""
    return nn.Sequential(*(layer for layer in model if type(layer) is not nn.Softmax))


@torch.no_grad()
def evaluate(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (0 to 1) of a network on inputs (n, N_0) and labels (n,)."""
    logits = _without_softmax(model)
    out = logits(x.to(logits[-1].weight))
    y = y.to(out.device)
    return cross_entropy(out, y).item(), (out.argmax(dim=1) == y).double().mean().item()


def _checkpoint(epoch: int, model: nn.Sequential, x: Tensor, y: Tensor, history: list[float]) -> Checkpoint:
    loss, accuracy = evaluate(model, x, y)
    if not loss < float("inf"):
        raise FloatingPointError(f"training diverged: the loss is {loss} after epoch {epoch}; lower lr")
    frozen = copy.deepcopy(model)
    frozen.zero_grad(set_to_none=True)
    return Checkpoint(epoch, frozen, loss, accuracy, tuple(history))
