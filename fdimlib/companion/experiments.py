"""The empirical experiments as tables of points, the most telling first.

A `Point` is one network of one training run, looked at on one set of inputs. Everything that
decides its integers is a field, so its key, a hash of the fields, names the record of its result.
Experiments share points, and so their results.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fdimlib.companion import REPOSITORY
from fdimlib.companion.presets import PRESETS, WIDE, Preset, get_preset
from fdimlib.companion.spikes import largest, recorded

__all__ = [
    "CLASSES", "FIELDS", "HIDDEN_LAYERS", "NUDGE", "PRESETS", "PROTOCOL", "TABLES", "Point",
    "Preset", "Run", "experiments", "get_preset",
]

PROTOCOL = 2
"""To be raised when training, inputs or measurements change: older records are then not read."""

PIXELS, HIDDEN_LAYERS, CLASSES = 784, 3, 10
"""The protocol's networks: PIXELS-w-w-w-CLASSES."""

ROOM = 45  # the largest width for which the test digits leave the rank room below the sample bound
NUDGE = 1e-6  # the placebo's noise on the pixels, a 4,000th of a grey level: nothing, to speak of
OWN = ("epoch", "inputs", "samples", "method")  # the fields of a point beside those of its run


@dataclass(frozen=True)
class Run:
    """One training run of 784-w-w-w-10 by the authors' protocol.

    Attributes:
        width: w.
        seed: of the split, the initial weights, the shuffling, the noise and the labels.
        n_train: training digits.
        noise: standard deviation of the noise on the pixels of the training digits, of [0, 1].
        random_labels: share of the training labels that are drawn anew.
        digits: size of the pool that the split is drawn from: 5,000, 10,000 or 70,000.
        lr, decay: the learning rate after e epochs is lr / (1 + decay · e).
    """

    width: int
    seed: int
    n_train: int = 600
    noise: float = 0.0
    random_labels: float = 0.0
    digits: int = 5000
    lr: float = 0.1
    decay: float = 0.0

    @property
    def setting(self) -> dict[str, Any]:
        """The fields that decide what comes out.

        Those that came later are left out where they have the protocol's values, so that older
        records keep their keys.
        """
        later = {"lr": Run.lr, "decay": Run.decay}
        return {name: value for name, value in asdict(self).items()
                if name not in later or value != later[name]}

    @property
    def layers(self) -> list[int]:
        return [PIXELS, *[self.width] * HIDDEN_LAYERS, CLASSES]

    @property
    def key(self) -> str:
        """Names the run's lock while some process computes its points."""
        return _hash(self.setting)


FIELDS = (*(field.name for field in fields(Run)), *OWN)
"""All that can decide the integers of a point, in the order of a table's columns."""


@dataclass(frozen=True)
class Point:
    """The network of `run` after `epoch` epochs on `samples` inputs.

    Attributes:
        inputs: "train", the inputs it was trained on, noise included; "clean", the same digits
            without the noise; "test"; "gaussian", N(0.5, 1) pixels; "growing", a Gaussian sample
            that grows until the rank is r*(θ), or to `samples` inputs.
        method: "exact"; "svd", the paper's numerical rank in its four variants; "explain", the
            terms of `explanation` without the rank; "losses", the loss of every epoch so far.
    """

    run: Run
    epoch: int
    inputs: str
    samples: int
    method: str = "exact"

    @property
    def fields(self) -> dict[str, Any]:
        """All that the key depends on, of `FIELDS`."""
        return self.run.setting | {name: getattr(self, name) for name in OWN}

    @classmethod
    def from_fields(cls, setting: dict[str, Any]) -> "Point":
        run = Run(**{name: value for name, value in setting.items() if name not in OWN})
        return cls(run, *(setting[name] for name in OWN))

    @property
    def key(self) -> str:
        """Names the point's record."""
        return _hash(self.fields)

    @property
    def cost(self) -> float:
        """A rough number of operations, for the remaining time of a sweep.

        Elimination, the SVDs, a share of the training.
        """
        from fdimlib.symmetries import dimension_bound, relu_mlp

        rank = dimension_bound(relu_mlp(self.run.layers), n=self.samples, head="softmax")
        rows, size = (CLASSES - 1) * self.samples, sum(self.run.layers)
        return rows * rank**2 * (80 if self.method == "svd" else 1) + 1e9 * size**0.5


def _hash(setting: dict[str, Any]) -> str:
    text = json.dumps(setting | {"protocol": PROTOCOL}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def experiments(preset: str) -> dict[str, list[Point]]:
    """The points of every experiment, by name, the most telling first."""
    return {name: list(dict.fromkeys(table(get_preset(preset)))) for name, table in TABLES.items()}


def published(name: str, preset: str) -> Path:
    """The committed table of an experiment."""
    return REPOSITORY / "figures" / "data" / f"{name}_{preset}.csv"


def _runs(widths: Iterable[int], sizes: Preset, **change: float) -> list[Run]:
    """The runs of some widths; changed ones (noise, random labels) with the ordinary seeds."""
    from fdimlib.companion.data import pool_size

    digits = pool_size(sizes.digits)
    return [Run(width, seed, sizes.n_train, digits=digits, **change)
            for width in widths for seed in sizes.seeds_of(width)
            if not change or seed in sizes.seeds]


def _on_test_digits(
    runs: list[Run], sizes: Preset, epochs: tuple[int, ...] = (),
) -> Iterator[Point]:
    """Without `epochs`, at those that the preset has for the run's width."""
    for run in runs:
        if run.width <= ROOM:
            n = sizes.n_test if run.width < WIDE else sizes.n_wide
            for epoch in epochs or sizes.epochs_on("test", run.width):
                yield Point(run, epoch, "test", n)


def _counted(runs: list[Run], epochs: tuple[int, ...], sizes: Preset) -> Iterator[Point]:
    """What counting singular values reads off the training digits."""
    for run in runs:
        seeds, moments = sizes.svd.get(run.width, (0, ()))
        if run.seed in sizes.seeds[:seeds]:
            for epoch in moments:
                if epoch in epochs:
                    yield Point(run, epoch, "train", sizes.n_train, "svd")


def _training(sizes: Preset) -> Iterator[Point]:
    """E1: ranks on training and test digits along training, and what singular values read."""
    runs = _runs(sizes.widths, sizes)
    for run in runs:
        for epoch in sizes.epochs_on("train", run.width):
            yield Point(run, epoch, "train", sizes.n_train)
    yield from _on_test_digits(runs, sizes)
    yield from _counted(runs, (0, *sizes.checkpoints), sizes)


def _at_other_rates(sizes: Preset) -> list[Run]:
    return [run for width, rates in sizes.rates.items() for lr, decay in rates
            for run in _runs([width], sizes, lr=lr, decay=decay)]


def _rates(sizes: Preset) -> Iterator[Point]:
    """Ranks on the training digits along runs with other learning rates."""
    for run in _at_other_rates(sizes):
        for epoch in sizes.epochs_on("train", run.width):
            yield Point(run, epoch, "train", sizes.n_train)


def _losses(sizes: Preset) -> Iterator[Point]:
    """The loss of every epoch."""
    for run in _runs(sizes.explained_widths, sizes) + _at_other_rates(sizes):
        yield Point(run, sizes.checkpoints[-1], "train", sizes.n_train, "losses")


def _spikes(sizes: Preset) -> Iterator[Point]:
    """Ranks around the largest spikes of the loss, of the runs whose losses are published."""
    losses = recorded(published("losses", sizes.name))
    for point in _losses(sizes):
        if point.run.width in sizes.spike_widths and point.key in losses:
            for spike in largest(losses[point.key]):
                for epoch in spike.epochs(point.epoch).values():
                    yield Point(point.run, epoch, "train", sizes.n_train)


def _explanation(sizes: Preset) -> Iterator[Point]:
    """Where P − rank goes: along training, at other learning rates, around spikes."""
    along = [Point(run, epoch, "train", sizes.n_train)
             for run in _runs(sizes.explained_widths, sizes)
             for epoch in sizes.epochs_on("train", run.width)]
    for point in (*along, *_rates(sizes), *_spikes(sizes)):
        yield replace(point, method="explain")


def _width(sizes: Preset) -> Iterator[Point]:
    """E2: ranks after training against the width, and before it for comparison."""
    samples = {"train": sizes.n_train, "test": sizes.n_test, "gaussian": sizes.n_test}
    last = sizes.checkpoints[-1]
    for run in _runs(sizes.widths, sizes):
        for epoch in (0, last):
            for inputs, n in samples.items():
                yield Point(run, epoch, inputs, n)
        if run.seed in sizes.seeds[: sizes.svd_gaussian.get(run.width, 0)]:
            yield Point(run, last, "gaussian", sizes.n_test, "svd")


def _noise(sizes: Preset) -> Iterator[Point]:
    """E3: noise on the training inputs; ranks on them, also before training, and on test digits."""
    last, ends = sizes.checkpoints[-1], (sizes.levels[0], sizes.levels[-1])
    runs = [run for level in sizes.levels for run in _runs(sizes.level_widths, sizes, noise=level)]
    runs += [run for level in ends for run in _runs(sizes.end_widths, sizes, noise=level)]
    at_ends = [run for run in runs if run.noise in ends]
    narrow_or_at_ends = [run for run in runs if run.width < WIDE or run.noise in ends]
    for run in runs:
        for epoch in (last, 0):
            yield Point(run, epoch, "train", sizes.n_train)
    yield from _on_test_digits(narrow_or_at_ends, sizes, (last,))
    if sizes.svd_of_changes:
        yield from _counted(at_ends, (last,), sizes)


def _labels(sizes: Preset) -> Iterator[Point]:
    """E4: random training labels; ranks on the training and the test digits."""
    last, ends = sizes.checkpoints[-1], (sizes.shares[0], sizes.shares[-1])
    runs = [run for share in sizes.shares
            for run in _runs(sizes.share_widths, sizes, random_labels=share)]
    runs += [run for share in ends for run in _runs(sizes.end_widths, sizes, random_labels=share)]
    at_ends = [run for run in runs if run.random_labels in ends]
    narrow_or_at_ends = [run for run in runs if run.width < WIDE or run.random_labels in ends]
    for run in runs:
        yield Point(run, last, "train", sizes.n_train)
    yield from _on_test_digits(narrow_or_at_ends, sizes, (last,))
    if sizes.svd_of_changes:
        yield from _counted(at_ends, (last,), sizes)


def _placebo(sizes: Preset) -> Iterator[Point]:
    """The same runs on pixels nudged before training; ranks on the same digits, not nudged.

    Nothing was changed but chance.
    """
    for width, seeds in sizes.placebo.items():
        for level, inputs in ((0.0, "train"), (NUDGE, "clean")):
            runs = [run for run in _runs([width], sizes, noise=level)
                    if run.seed in sizes.seeds[:seeds]]
            for run in runs:
                for epoch in sizes.placebo_epochs:
                    yield Point(run, epoch, inputs, sizes.n_train)
            yield from _on_test_digits(runs, sizes, sizes.placebo_epochs)


def _full(sizes: Preset) -> Iterator[Point]:
    """E5: the full functional dimension on growing Gaussian samples, before and after training."""
    for run in _runs(sizes.full_widths, sizes):
        for epoch in (0, sizes.checkpoints[-1]):
            yield Point(run, epoch, "growing", sizes.full_samples)


TABLES: dict[str, Callable[[Preset], Iterable[Point]]] = {
    "training": _training, "width": _width, "noise": _noise, "labels": _labels,
    "placebo": _placebo, "full_dimension": _full, "losses": _losses, "rates": _rates,
    "spikes": _spikes, "explanation": _explanation,
}
