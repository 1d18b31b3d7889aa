"""The empirical experiments as tables of points: sizes of each preset, the most telling points first.

A `Point` is one network of one training run, looked at on one set of inputs. Everything that decides its integers is a
field, so its key, a hash of the fields, names the record of its result. Experiments share points, and so their results.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

PROTOCOL = 2  # raise it when training, inputs or measurements change: records of older protocols are then no longer read
CLASSES = 10
THEIRS = (0, 40, 80, 280, 680)  # initial weights and the authors' checkpoints
WIDE = 30  # the authors' width: from here on costs count, and fewer epochs and levels are looked at
ROOM = 45  # the largest width for which the test digits at hand leave the rank any room below the sample bound
NUDGE = 1e-6  # the placebo: noise on the pixels, a 4,000th of one grey level, that no one would call a change
OWN = ("epoch", "inputs", "samples", "method")  # the fields of a point beside those of its run


@dataclass(frozen=True)
class Run:
    """One training run of 784-w-w-w-10 by the authors' protocol.

    Attributes:
        width: w.
        seed: of the split, the initial weights, the shuffling, the noise and the labels.
        n_train: training digits.
        noise: standard deviation of the noise added to the pixels of the training digits, which lie in [0, 1].
        random_labels: share of the training labels that are drawn anew.
        digits: size of the pool that the split is drawn from: 5,000, 10,000 or 70,000.
    """

    width: int
    seed: int
    n_train: int = 600
    noise: float = 0.0
    random_labels: float = 0.0
    digits: int = 5000

    @property
    def layers(self) -> list[int]:
        return [784, self.width, self.width, self.width, CLASSES]


@dataclass(frozen=True)
class Point:
    """The network of `run` after `epoch` epochs on `samples` inputs.

    Attributes:
        inputs: "train", the inputs it was trained on, noise included; "clean", the same digits without the noise; "test";
            "gaussian", N(0.5, 1) pixels; "growing", a Gaussian sample that grows until the rank is r*(θ), or to `samples`
            inputs.
        method: "exact", or "svd": the paper's numerical rank in its four variants.
    """

    run: Run
    epoch: int
    inputs: str
    samples: int
    method: str = "exact"

    @property
    def fields(self) -> dict:
        """All that the key depends on, flat: the setting's columns in a table."""
        return asdict(self.run) | {name: getattr(self, name) for name in OWN}

    @classmethod
    def from_fields(cls, fields: dict) -> "Point":
        return cls(Run(**{name: value for name, value in fields.items() if name not in OWN}), *(fields[name] for name in OWN))

    @property
    def key(self) -> str:
        text = json.dumps(self.fields | {"protocol": PROTOCOL}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def cost(self) -> float:
        """A rough number of operations, for the remaining time of a sweep: elimination, the SVDs, a share of the training."""
        from fdimlib.symmetries import dimension_bound, relu_mlp

        rank = dimension_bound(relu_mlp(self.run.layers), n=self.samples, head="softmax")
        rows, size = (CLASSES - 1) * self.samples, sum(self.run.layers)
        return rows * rank**2 * (80 if self.method == "svd" else 1) + 1e9 * size**0.5


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiments.

    Attributes:
        digits: the packaged pool that the splits are drawn from.
        draws: random parameters or samples in the theory notebooks.
        n_train, n_test: training digits; test digits, and Gaussian inputs as many.
        n_wide: test digits at widths 30 and 45, enough for the rank not to be at the sample bound.
        widths, seeds: of the training runs.
        other_seeds: width → seeds of the experiments on training and width, where they are not `seeds`.
        checkpoints: epochs looked at on the training digits, beside epoch 0.
        test_epochs: epochs looked at on the test digits.
        wide_epochs, wide_test_epochs: the same at width 30 and above.
        svd_inputs: training digits of the spectra in notebook 08.
        svd: width → for how many seeds and at which epochs the numerical ranks are computed on all training digits.
        svd_gaussian: width → for how many seeds they are computed on the Gaussian inputs, after training.
        levels, level_widths: noise levels and widths of the noise experiment.
        shares, share_widths: shares of random labels and widths of the label experiment.
        end_widths: further widths of these two, at the first and the last level and share only.
        placebo, placebo_epochs: width → how many seeds are trained again on nudged pixels; when they are looked at.
        full_widths, full_samples: widths for the full functional dimension; Gaussian inputs at most.
    """

    digits: int
    draws: int
    n_train: int
    n_test: int
    n_wide: int
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    other_seeds: dict[int, tuple[int, ...]]
    checkpoints: tuple[int, ...]
    test_epochs: tuple[int, ...]
    wide_epochs: tuple[int, ...]
    wide_test_epochs: tuple[int, ...]
    svd_inputs: int
    svd: dict[int, tuple[int, tuple[int, ...]]]
    svd_gaussian: dict[int, int]
    levels: tuple[float, ...]
    level_widths: tuple[int, ...]
    shares: tuple[float, ...]
    share_widths: tuple[int, ...]
    end_widths: tuple[int, ...]
    placebo: dict[int, int]
    placebo_epochs: tuple[int, ...]
    full_widths: tuple[int, ...]
    full_samples: int

    def seeds_of(self, width: int) -> tuple[int, ...]:
        return self.other_seeds.get(width, self.seeds)

    def epochs_on(self, inputs: str, width: int) -> tuple[int, ...]:
        """When training runs of that width are looked at on the training or the test digits."""
        if inputs == "test":
            return self.test_epochs if width < WIDE else self.wide_test_epochs
        return (0, *self.checkpoints) if width < WIDE else self.wide_epochs


PRESETS = {
    "quick": Preset(
        digits=5000, draws=200, n_train=600, n_test=600, n_wide=4400,
        widths=(2, 3, 5, 10), seeds=(0, 1, 2), other_seeds={},
        checkpoints=(40, 80, 280, 680), test_epochs=THEIRS, wide_epochs=(), wide_test_epochs=(),
        svd_inputs=200, svd={}, svd_gaussian={},
        levels=(0.0, 0.5, 2.0), level_widths=(5, 10), shares=(0.0, 0.5, 1.0), share_widths=(5, 10), end_widths=(),
        placebo={}, placebo_epochs=(), full_widths=(2, 3, 5), full_samples=3000,
    ),
    "paper": Preset(
        digits=5000, draws=2000, n_train=600, n_test=2000, n_wide=4400,
        widths=(2, 3, 5, 10, 15, 20, 30, 45, 60), seeds=(0, 1, 2, 3, 4), other_seeds={45: (0, 1, 2), 60: (0, 1, 2)},
        checkpoints=(10, 40, 80, 160, 280, 480, 680), test_epochs=THEIRS,
        wide_epochs=(0, 10, 40, 80, 160, 280, 480, 680), wide_test_epochs=(0, 40, 680),
        svd_inputs=600,
        svd={2: (5, (0, 680)), 3: (5, (0, 680)), 5: (5, (0, 40, 80, 280, 680)), 10: (5, (0, 680)), 30: (3, (0, 680))},
        svd_gaussian={2: 2, 3: 2, 5: 2},
        levels=(0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0), level_widths=(5, 10, 30),
        shares=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), share_widths=(5, 10, 30, 60), end_widths=(15, 20, 45),
        placebo={10: 5, 30: 5}, placebo_epochs=(40, 680), full_widths=(2, 3, 5, 10, 15, 20, 30), full_samples=25_000,
    ),
    "large": Preset(
        digits=10_000, draws=2000, n_train=6000, n_test=4000, n_wide=4000,
        widths=(5, 10, 15, 20, 30, 45), seeds=(0, 1, 2, 3, 4), other_seeds={10: tuple(range(10)), 45: (0, 1, 2)},
        checkpoints=(40, 80, 280, 400, 680, 1000, 1400, 2200, 3000),
        test_epochs=(0, 40, 80, 280, 400, 680, 1000, 1400, 2200, 3000),
        wide_epochs=(0, 40, 680, 3000), wide_test_epochs=(0, 40, 680, 3000),
        svd_inputs=600, svd={}, svd_gaussian={},
        levels=(0.0, 5.0), level_widths=(10, 20, 30), shares=(0.0, 1.0), share_widths=(10, 20, 30), end_widths=(),
        placebo={10: 3, 30: 1}, placebo_epochs=(40, 3000), full_widths=(), full_samples=25_000,
    ),
}
"""quick: minutes. paper: the released script's sizes. large: a larger setting of the authors', 6,000 digits, 3,000 epochs."""


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none; the names that exist are listed.
    """
    from fdimlib.validation import one_of  # torch, which the help of the command line does without

    one_of("preset", name, tuple(PRESETS))
    return PRESETS[name]


def experiments(preset: str) -> dict[str, list[Point]]:
    """The points of every experiment, by name, the most telling first."""
    return {name: list(dict.fromkeys(table(get_preset(preset)))) for name, table in TABLES.items()}


def _runs(widths, sizes: Preset, **change) -> list[Run]:
    """The runs of some widths; changed ones, by noise or random labels, with the preset's ordinary seeds."""
    from fdimlib.companion.data import pool_size

    return [Run(width, seed, sizes.n_train, digits=pool_size(sizes.digits), **change)
            for width in widths for seed in sizes.seeds_of(width) if not change or seed in sizes.seeds]


def _on_test_digits(runs: list[Run], sizes: Preset, epochs=None):
    for run in (run for run in runs if run.width <= ROOM):
        n = sizes.n_test if run.width < WIDE else sizes.n_wide
        yield from (Point(run, epoch, "test", n) for epoch in epochs or sizes.epochs_on("test", run.width))


def _counted(runs: list[Run], epochs, sizes: Preset):
    """What counting singular values reads off the training digits."""
    for run in runs:
        seeds, moments = sizes.svd.get(run.width, (0, ()))
        if run.seed in sizes.seeds[:seeds]:
            yield from (Point(run, epoch, "train", sizes.n_train, "svd") for epoch in moments if epoch in epochs)


def _training(sizes: Preset):
    """E1: ranks on training and test digits along training, and what counting singular values reads."""
    runs = _runs(sizes.widths, sizes)
    yield from (Point(run, epoch, "train", sizes.n_train) for run in runs for epoch in sizes.epochs_on("train", run.width))
    yield from _on_test_digits(runs, sizes)
    yield from _counted(runs, (0, *sizes.checkpoints), sizes)


def _width(sizes: Preset):
    """E2: ranks after training against the width, and before it for comparison."""
    samples = {"train": sizes.n_train, "test": sizes.n_test, "gaussian": sizes.n_test}
    for run in _runs(sizes.widths, sizes):
        yield from (Point(run, epoch, inputs, n) for epoch in (0, sizes.checkpoints[-1]) for inputs, n in samples.items())
        if run.seed in sizes.seeds[: sizes.svd_gaussian.get(run.width, 0)]:
            yield Point(run, sizes.checkpoints[-1], "gaussian", sizes.n_test, "svd")


def _noise(sizes: Preset):
    """E3: noise on the training inputs; ranks on them, also before training, and on the clean test digits."""
    last, ends = sizes.checkpoints[-1], (sizes.levels[0], sizes.levels[-1])
    runs = [run for level in sizes.levels for run in _runs(sizes.level_widths, sizes, noise=level)]
    runs += [run for level in ends for run in _runs(sizes.end_widths, sizes, noise=level)]
    yield from (Point(run, epoch, "train", sizes.n_train) for run in runs for epoch in (last, 0))
    yield from _on_test_digits([run for run in runs if run.width < WIDE or run.noise in ends], sizes, (last,))
    yield from _counted([run for run in runs if run.noise in ends], (last,), sizes)


def _labels(sizes: Preset):
    """E4: random training labels; ranks on the training and the test digits."""
    last, ends = sizes.checkpoints[-1], (sizes.shares[0], sizes.shares[-1])
    runs = [run for share in sizes.shares for run in _runs(sizes.share_widths, sizes, random_labels=share)]
    runs += [run for share in ends for run in _runs(sizes.end_widths, sizes, random_labels=share)]
    yield from (Point(run, last, "train", sizes.n_train) for run in runs)
    yield from _on_test_digits([run for run in runs if run.width < WIDE or run.random_labels in ends], sizes, (last,))
    yield from _counted([run for run in runs if run.random_labels in ends], (last,), sizes)


def _placebo(sizes: Preset):
    """The same runs on pixels nudged before training; ranks on the same digits, not nudged. Nothing was changed but chance."""
    for width, seeds in sizes.placebo.items():
        for level, inputs in ((0.0, "train"), (NUDGE, "clean")):
            runs = [run for run in _runs([width], sizes, noise=level) if run.seed in sizes.seeds[:seeds]]
            yield from (Point(run, epoch, inputs, sizes.n_train) for run in runs for epoch in sizes.placebo_epochs)
            yield from _on_test_digits(runs, sizes, sizes.placebo_epochs)


def _full(sizes: Preset):
    """E5: the full functional dimension on growing Gaussian samples, before and after training."""
    moments = (0, sizes.checkpoints[-1])
    runs = _runs(sizes.full_widths, sizes)
    yield from (Point(run, epoch, "growing", sizes.full_samples) for run in runs for epoch in moments)


TABLES = {"training": _training, "width": _width, "noise": _noise, "labels": _labels, "placebo": _placebo,
          "full_dimension": _full}
