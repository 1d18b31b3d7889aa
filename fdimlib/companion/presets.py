"""The presets: how large the experiments are, from minutes to days."""

from dataclasses import dataclass, field

THEIRS = (0, 40, 80, 280, 680)  # initial weights and the authors' checkpoints
WIDE = 30  # the authors' width: from here on costs count; fewer epochs and levels are looked at


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiments.

    Attributes:
        name: as on the command line and in the names of tables.
        digits: the packaged pool that the splits are drawn from.
        draws: random parameters or samples in the theory notebooks.
        n_train, n_test: training digits; test digits, and Gaussian inputs as many.
        n_wide: test digits at widths 30 and 45, enough for ranks below the sample bound.
        widths, seeds: of the training runs.
        other_seeds: width → seeds of the experiments on training and width, where not `seeds`.
        checkpoints: epochs looked at on the training digits, beside epoch 0.
        test_epochs: epochs looked at on the test digits.
        wide_epochs, wide_test_epochs: the same at width 30 and above.
        svd_inputs: training digits of the spectra in notebook 08.
        svd: width → for how many seeds and at which epochs the numerical ranks are computed, on all
            training digits.
        svd_gaussian: width → for how many seeds they are computed on the Gaussian inputs, after
            training.
        svd_of_changes: whether also with noise and with random labels, at the ends of both.
        levels, level_widths: noise levels and widths of the noise experiment.
        shares, share_widths: shares of random labels and widths of the label experiment.
        end_widths: further widths of these two, at the first and the last level and share only.
        placebo: width → how many seeds are trained again on nudged pixels.
        placebo_epochs: when these are looked at.
        full_widths: widths for the full functional dimension.
        full_samples: Gaussian inputs at most.
        explained_widths: widths for which the missing dimensions are explained along training.
        rates: width → learning rates with their decays, see `Run`, beside the protocol's.
        spike_widths: widths at which ranks are taken around spikes of the loss.
    """

    name: str
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
    explained_widths: tuple[int, ...] = ()
    rates: dict[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    spike_widths: tuple[int, ...] = ()
    svd_of_changes: bool = True

    def seeds_of(self, width: int) -> tuple[int, ...]:
        return self.other_seeds.get(width, self.seeds)

    def epochs_on(self, inputs: str, width: int) -> tuple[int, ...]:
        """When training runs of that width are looked at on the training or the test digits."""
        if width < WIDE:
            return self.test_epochs if inputs == "test" else (0, *self.checkpoints)
        return self.wide_test_epochs if inputs == "test" else self.wide_epochs


QUICK = Preset(
    name="quick", digits=5000, draws=200, n_train=600, n_test=600, n_wide=4400,
    widths=(2, 3, 5, 10), seeds=(0, 1, 2), other_seeds={},
    checkpoints=(40, 80, 280, 680), test_epochs=THEIRS, wide_epochs=(), wide_test_epochs=(),
    svd_inputs=200, svd={}, svd_gaussian={},
    levels=(0.0, 0.5, 2.0), level_widths=(5, 10), shares=(0.0, 0.5, 1.0), share_widths=(5, 10),
    end_widths=(), placebo={}, placebo_epochs=(), full_widths=(2, 3, 5), full_samples=3000,
)
PAPER = Preset(
    name="paper", digits=5000, draws=2000, n_train=600, n_test=2000, n_wide=4400,
    widths=(2, 3, 5, 10, 15, 20, 30, 45, 60), seeds=(0, 1, 2, 3, 4),
    other_seeds={45: (0, 1, 2), 60: (0, 1, 2)},
    checkpoints=(10, 40, 80, 160, 280, 480, 680), test_epochs=THEIRS,
    wide_epochs=(0, 10, 40, 80, 160, 280, 480, 680), wide_test_epochs=(0, 40, 680),
    svd_inputs=600,
    svd={2: (5, (0, 680)), 3: (5, (0, 680)), 5: (5, (0, 40, 80, 280, 680)), 10: (5, (0, 680)),
         30: (3, (0, 680))},
    svd_gaussian={2: 2, 3: 2, 5: 2},
    levels=(0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0), level_widths=(5, 10, 30),
    shares=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), share_widths=(5, 10, 30, 60),
    end_widths=(15, 20, 45), placebo={10: 5, 30: 5}, placebo_epochs=(40, 680),
    full_widths=(2, 3, 5, 10, 15, 20, 30), full_samples=25_000,
)
LARGE = Preset(
    name="large", digits=10_000, draws=2000, n_train=6000, n_test=4000, n_wide=4000,
    widths=(5, 10, 15, 20, 30, 45), seeds=(0, 1, 2, 3, 4),
    other_seeds={10: tuple(range(10)), 45: (0, 1, 2)},
    checkpoints=(40, 80, 280, 400, 680, 1000, 1400, 2200, 3000),
    test_epochs=(0, 40, 80, 280, 400, 680, 1000, 1400, 2200, 3000),
    wide_epochs=(0, 40, 680, 3000), wide_test_epochs=(0, 40, 680, 3000),
    svd_inputs=600, svd={10: (1, (0, 3000)), 30: (1, (0, 3000))}, svd_gaussian={},
    svd_of_changes=False,
    levels=(0.0, 5.0), level_widths=(10, 20, 30), shares=(0.0, 1.0), share_widths=(10, 20, 30),
    end_widths=(), placebo={10: 3, 30: 1}, placebo_epochs=(40, 3000),
    full_widths=(), full_samples=25_000, explained_widths=(5, 10, 15, 20, 30, 45),
    rates={10: ((0.03, 0.0), (0.3, 0.0), (0.1, 0.01))}, spike_widths=(10, 20),
)
PRESETS = {preset.name: preset for preset in (QUICK, PAPER, LARGE)}
"""quick: minutes. paper: the released script's sizes. large: a larger setting of the authors'."""


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none; the names that exist are listed.
    """
    from fdimlib.validation import one_of  # torch, which the help of the command line does without

    one_of("preset", name, tuple(PRESETS))
    return PRESETS[name]
