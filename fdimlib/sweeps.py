"""The two presets of every experiment, in one place: `quick` runs anywhere in minutes, `paper` has the authors' sizes."""

from dataclasses import dataclass

from fdimlib.validation import one_of


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiments.

    Attributes:
        draws: random parameters or samples in the theory notebooks.
        n_train, n_test: digits to train and test on.
        widths: of the three hidden layers of 784-w-w-w-10.
        seeds: of the split, the initial weights and the shuffling.
        checkpoints: epochs at which dimensions are computed, beside epoch 0.
        svd_widths, svd_inputs: widths at which the paper's numerical rank is computed as well, and on how many of the
            training digits; it costs hundreds of times more.
    """

    draws: int
    n_train: int
    n_test: int
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    checkpoints: tuple[int, ...]
    svd_widths: tuple[int, ...]
    svd_inputs: int


PRESETS = {
    "quick": Preset(
        draws=200, n_train=600, n_test=600, widths=(2, 3, 5, 10), seeds=(0, 1, 2), checkpoints=(40, 80, 280, 680),
        svd_widths=(5,), svd_inputs=200,
    ),
    "paper": Preset(
        draws=2000, n_train=600, n_test=2000, widths=(2, 3, 5, 10, 15, 20, 30, 45, 60), seeds=(0, 1, 2, 3, 4),
        checkpoints=(40, 80, 280, 680), svd_widths=(2, 3, 5, 10), svd_inputs=600,
    ),
}


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none; the names that exist are listed.
    """
    one_of("preset", name, tuple(PRESETS))
    return PRESETS[name]
