"""What is measured at a point: the network trained by the protocol, its ranks, how well it does."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fdimlib.companion.data import add_noise, mnist_sample, pool_size, randomize_labels
from fdimlib.companion.experiments import CLASSES, HIDDEN_LAYERS, Point, Run
from fdimlib.companion.packaged import PACKAGED
from fdimlib.companion.tall import tall_spectrum
from fdimlib.companion.training import Checkpoint, evaluate, train
from fdimlib.dimension import batch_functional_dimension, full_functional_dimension
from fdimlib.explanation import kernel_terms
from fdimlib.finite_field import primes
from fdimlib.gaussian import gaussian_inputs
from fdimlib.numerical import numerical_rank, spectrum
from fdimlib.patterns import activation_pattern
from fdimlib.reading import read_network
from fdimlib.symmetries import dimension_bound, relu_mlp

Outcome = dict[str, Any]
"""{"result": a dict of JSON values} or {"error": a sentence}."""

HELD = 2**28
"""Entries of the largest Jacobian whose singular values are computed at once: 2 GiB of float64."""


def compute(
    points: list[Point], device: str = "cpu", train: Callable[..., list[Checkpoint]] = train,
) -> Iterator[tuple[Point, Outcome]]:
    """The outcome at each of some points of one training run.

    Args:
        train: `training.train`, or `once.train_once`, which gives the same without training twice.
    """
    run = points[0].run
    needed = max([point.samples for point in points if point.inputs == "test"], default=1)
    try:
        if run.digits not in PACKAGED:
            pool_size()  # refuses what is not MNIST
        digits = mnist_sample(run.n_train, needed, seed=run.seed, pool=run.digits)
        x = add_noise(digits.x_train, run.noise, seed=run.seed)
        y = randomize_labels(digits.y_train, run.random_labels, seed=run.seed)
        epochs = sorted({point.epoch for point in points})
        kept = train(relu_mlp(run.layers, seed=run.seed), x, y, checkpoints=epochs,
                     epochs=max(1, epochs[-1]), lr=run.lr, decay=run.decay, seed=run.seed,
                     progress=False)
    except Exception as problem:
        for point in points:
            yield point, {"error": f"training: {type(problem).__name__}: {problem}"}
        return
    at = {checkpoint.epoch: checkpoint for checkpoint in kept}
    samples: dict[str, tuple[Tensor, Tensor]] = {
        "train": (x, y), "clean": (digits.x_train, y), "test": (digits.x_test, digits.y_test),
    }
    for point in points:
        try:
            labels = None
            if point.inputs in samples:
                inputs, labels = (values[: point.samples] for values in samples[point.inputs])
            else:
                inputs = gaussian_inputs(point.samples, seed=run.seed)
            model = at[point.epoch].model
            if point.method == "svd":
                yield point, {"result": _numerical(point, model, inputs, device)}
            elif point.method == "explain":
                yield point, {"result": _explained(model, inputs)}
            elif point.method == "losses":
                losses = " ".join(f"{loss:.4g}" for loss in at[point.epoch].history)
                yield point, {"result": {"losses": losses, "weights": fingerprint(model)}}
            else:
                yield point, {"result": _exact(point, model, inputs, labels, device)}
        except Exception as problem:
            yield point, {"error": f"{type(problem).__name__}: {problem}"}


def _exact(
    point: Point, model: nn.Sequential, x: Tensor, y: Tensor | None, device: str,
) -> dict[str, Any]:
    """The exact rank with the softmax head, its bounds, and how well the network does here."""
    start = time.perf_counter()
    if point.inputs == "growing":
        dim = full_functional_dimension(model, head="softmax", seed=point.run.seed, device=device,
                                        max_samples=point.samples, progress=False)
        x = x[: dim.samples]
    else:
        dim = batch_functional_dimension(model, x, head="softmax", device=device,
                                         progress=False)
    seconds = time.perf_counter() - start
    loss, accuracy = (None, None) if y is None else evaluate(model, x, y)
    active = activation_pattern(model, x).reshape(len(x), HIDDEN_LAYERS, point.run.width)
    layers_alive = active.any(dim=2).any(dim=0)
    return {
        "exact": dim.value,
        "bound": dim.bound,
        "sample_bound": (CLASSES - 1) * dim.samples,
        "parameter_bound": dimension_bound(model, head="softmax"),
        "parameters": dim.parameters,
        "verified": dim.verified,
        "zeros": dim.zero_preactivations,
        "dead": not layers_alive.all().item(),
        "patterns": len(torch.unique(active.flatten(1), dim=0)),
        "inputs_used": dim.samples,
        "reached_at": dim.reached_at,
        "loss": loss,
        "accuracy": accuracy,
        "seconds": round(seconds, 3),
        "weights": fingerprint(model),
        "torch": torch.__version__.split("+")[0],
        "prime": dim.primes[-1],
    }


def _numerical(point: Point, model: nn.Sequential, x: Tensor, device: str) -> dict[str, Any]:
    """The paper's count: entries in float32 or float64, with softmax or logits.

    The tolerance is always that of float64. Of a Jacobian too large to be held, the released
    script's softmax only: it takes an hour and more.
    """
    start = time.perf_counter()
    shape = (len(x) * CLASSES, sum(p.numel() for p in model.parameters()))
    tall = math.prod(shape) > HELD
    found: dict[str, Any] = {}
    if not tall:
        found["exact_logits"] = int(batch_functional_dimension(
            model, x, head="identity", device=device, progress=False))
    for precision in (torch.float32, torch.float64):
        rounded = relu_mlp(point.run.layers).to(device, precision)
        rounded.load_state_dict(model.state_dict())
        for head, name in (("softmax", "softmax"), ("identity", "logits"))[: 1 if tall else 2]:
            s = (tall_spectrum if tall else spectrum)(rounded, x, head=head)
            found[f"svd_{str(precision).removeprefix('torch.')}_{name}"] = numerical_rank(s, shape)
    found["svd_seconds"] = round(time.perf_counter() - start, 3)
    found["weights"] = fingerprint(model)
    return found


def _explained(model: nn.Sequential, x: Tensor) -> dict[str, Any]:
    """The terms of `explanation` with the softmax head, and how active the units are."""
    start = time.perf_counter()
    network = read_network(model, "softmax")
    terms = kernel_terms(network, x, primes(1)[0])
    active = activation_pattern(model, x).reshape(len(x), HIDDEN_LAYERS, -1)
    found: dict[str, Any] = {"parameters": network.parameters}
    found["explained"] = sum(count for _, _, count in terms)
    for term, layer, count in terms:
        found[f"{term} {layer}".removesuffix(" 0").replace(" ", "_")] = count
    for layer in range(HIDDEN_LAYERS):
        found[f"active_share_{layer + 1}"] = round(active[:, layer].double().mean().item(), 6)
        found[f"units_alive_{layer + 1}"] = int(active[:, layer].any(dim=0).sum())
    found["patterns"] = len(torch.unique(active.flatten(1), dim=0))
    found["seconds"] = round(time.perf_counter() - start, 3)
    found["weights"] = fingerprint(model)
    return found


def fingerprint(model: nn.Sequential) -> str:
    """A hash of the weights, bit by bit: two networks with the same one have the same rank."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().to("cpu", torch.float64).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def ranks(result: dict[str, Any]) -> dict[str, Any]:
    """The integers of a result that the weights decide."""
    return {name: value for name, value in result.items()
            if name.startswith(("exact", "svd")) and name != "svd_seconds"}


def describe(point: Point, outcome: Outcome) -> str:
    """A point and its outcome in a line."""
    run = point.run
    setting = [f"w = {run.width}", f"seed {run.seed}", f"epoch {point.epoch}",
               f"{point.inputs} inputs"]
    if run.noise:
        setting.append(f"noise {run.noise:g}")
    if run.random_labels:
        setting.append(f"random labels {run.random_labels:.0%}")
    if (run.lr, run.decay) != (Run.lr, Run.decay):
        setting.append(f"rate {run.lr:g}" + f", decay {run.decay:g}" * bool(run.decay))
    return f"{', '.join(setting)}: {_found(outcome)}"


def _found(outcome: Outcome) -> str:
    if "error" in outcome:
        return str(outcome["error"])
    result = outcome["result"]
    if "explained" in result:
        return f"{result['explained']:,} of {result['parameters']:,} dimensions explained"
    if "losses" in result:
        return f"last loss {result['losses'].split()[-1]}"
    if "exact" in result:
        return f"rank {result['exact']:,} of at most {result['bound']:,}"
    return f"float32 count {result['svd_float32_softmax']:,.0f}"
