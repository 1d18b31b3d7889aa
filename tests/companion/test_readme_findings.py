"""Every number of the README's findings, computed from the committed tables.

Its table of verdicts is generated; test_claims.py holds that.
"""

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from fdimlib.companion import effects, findings, sweeps
from fdimlib.companion.experiments import experiments
from fdimlib.companion.judgements import CLOSE
from fdimlib.companion.presets import PRESETS
from fdimlib.companion.spikes import spikes
from fdimlib.symmetries import relu_mlp

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
NUMBER = re.compile(
    r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])"
)  # 5, 1,951, 98.5; not r2, 784-w or 10_2


def found():
    """What the README found, the introduction first, then one text an item.

    The generated table, links and the names of networks are taken out.
    """
    section = README.split("## Found so far")[1].split("## Two commands")[0]
    before, rest = section.split(findings.BEGIN)
    section = before.rstrip() + rest.split(findings.END)[1]
    plain = re.sub(r"!?\[([^]]*)\]\([^)]*\)", "", section).replace("784-w-w-w-10", "")
    introduction, *items = plain.split("\n- ")
    *items, (last, after) = *items[:-1], items[-1].split("\n\n", 1)
    return [introduction, *items, last, after]


def numbers(text):
    return [number.rstrip(",") for number in NUMBER.findall(text)]


def written(*values):
    """Numbers as the README writes them: 4,400 and 98.5."""
    return [
        f"{value:,}" if float(value).is_integer() and not isinstance(value, float) else f"{value:g}"
        for value in values
    ]


@pytest.fixture(scope="module")
def tables():
    return {
        name: pd.read_csv(sweeps.published(name, "paper"))
        for name, points in experiments("paper").items()
        if points
    }


def seeds_that(sign, table, column, before, after, inputs, width):
    """How many networks of a width moved in a direction: "4 of 5"."""
    found = (
        effects.pairs(table, column, before, after)
        .loc[[inputs]]
        .xs(width, level="width", drop_level=False)
    )
    judged = effects.verdict(found, sign)
    return [judged.claimed, judged.counted]


def test_the_readme_has_at_most_five_findings_and_says_first_what_holds():
    introduction, *items, _ = found()
    assert 3 <= len(items) <= 5
    assert "hold" in items[0] and "hold" in items[1]
    assert "being measured" in " ".join(introduction.split()) and "predictions.md" in README


def test_the_setting_in_the_readme_is_that_of_the_preset():
    paper, large = PRESETS["paper"], PRESETS["large"]
    few = sorted(width for width in paper.widths if len(paper.seeds_of(width)) == 3)
    assert numbers(found()[0]) == written(
        paper.n_train,
        paper.checkpoints[-1],
        paper.widths[0],
        paper.widths[-1],
        *few,
        large.n_train,
        large.checkpoints[-1],
    )
    assert len(paper.seeds) == 5


def test_the_answer_in_the_readme_is_computed_from_the_tables(tables):
    """Its three sentences: the released setting, the larger one, the one large fall."""
    small, large = PRESETS["paper"], PRESETS["large"]
    end, training = large.checkpoints[-1], pd.read_csv(sweeps.published("training", "large"))
    rises = effects.pairs(tables["training"], "epoch", 0, 680).query("not dead").ratio.loc["test"]
    assert (rises.loc[[5, 10, 20]] > 1).all() and rises.loc[30].between(0.98, 1.02).all()
    wide = effects.pairs(training, "epoch", 0, end).ratio.xs(30, level="width")
    assert (wide > 1).all() and len(wide) == 2 * len(large.seeds)
    since = effects.pairs(training, "epoch", 40, end).ratio.loc["train"].loc[10]
    fallen = since[since < 0.9]
    assert len(fallen) == 1 and since.drop(fallen.index).between(0.96, 1.04).all()
    assert spikes(losses_of(10, *fallen.index)) and any(
        spike.lasting for spike in spikes(losses_of(10, *fallen.index)))
    answer = README.split("## So does the dimension decrease?")[1].split("![")[0]
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", "", answer)
    assert numbers(plain) == written(
        small.n_train, small.checkpoints[-1], 5, 10, 20, 30, 2,
        large.n_train, end, 30, len(large.seeds), len(large.seeds), ceiling(wide.max()),
        10, len(since), 40, 4, len(since) - 1, round(100 * (1 - fallen.item())))


def ceiling(ratio):
    """In percent above 1, rounded up to one digit after the point."""
    return math.ceil(1000 * (ratio - 1)) / 10


def losses_of(width, seed):
    """The loss of every epoch of a run of the larger setting."""
    table = pd.read_csv(sweeps.published("losses", "large"))
    row = table[(table.width == width) & (table.seed == seed) & (table.lr == 0.1)
                & (table.decay == 0)]
    return [float(loss) for loss in row.losses.item().split()]


def test_the_chances_in_the_readme_are_those_of_coins():
    assert numbers(found()[2]) == written(
        4, 5, 1, 2**5, 5, 5, 1, 2**3, 3, 3, round(100 * (1 - CLOSE))
    )


def test_what_the_table_has_no_room_for_in_the_readme_is_computed(tables):
    paper, full, labels = PRESETS["paper"], tables["full_dimension"], tables["labels"]
    share = (full.exact / full.parameters)[(full.width >= 5) & ~full.dead]
    raised = effects.pairs(labels, "random_labels", 0.0, 1.0).ratio.loc["test"].loc[30] - 1
    nudged = effects.placebo(tables["placebo"], 680).ratio.loc["test"].loc[30] - 1
    size = [round(100 * raised.min()), round(100 * raised.max())]
    assert 100 * nudged.abs().max() <= 0.1 < 100 * raised.min()
    assert 0.98 < share.min() and int(1000 * share.min()) / 10 == 98.5
    wide = labels[(labels.inputs == "test") & (labels.width >= 30)]
    noisy = tables["noise"][tables["noise"].epoch == 680]
    lower = seeds_that(-1, labels, "random_labels", 0.0, 1.0, "test", 10)
    assert lower == seeds_that(-1, noisy, "noise", 0.0, 5.0, "test", 10)
    assert numbers(found()[3]) == written(
        paper.n_train,
        paper.checkpoints[-1],
        int(1000 * share.min()) / 10,
        5,
        wide.samples.unique().item(),
        30,
        *size,
        0.1,
        45,
        10,
        *lower,
    )


def test_what_training_does_in_the_readme_is_computed_from_the_tables(tables):
    paper, training, full = PRESETS["paper"], tables["training"], tables["full_dimension"]
    early = seeds_that(-1, training, "epoch", 0, 40, "test", 30)
    falls = [seeds_that(-1, full, "epoch", 0, 680, "growing", w) for w in (10, 20, 30)]
    least = effects.pairs(full, "epoch", 0, 680).loc["growing"].ratio.loc[[10, 20, 30]].min()
    rises = [seeds_that(1, training, "epoch", 0, 680, "test", w) for w in (5, 10, 20)]
    wide = effects.pairs(training, "epoch", 0, 680).loc["test"].ratio.loc[30]
    assert falls[0] == falls[1] == falls[2] and 0.99 <= least < 0.995
    assert rises[0] == rises[1] == rises[2]
    assert wide.between(0.98, 1.02).all() and not wide.between(0.99, 1.01).all()
    samples = training[(training.inputs == "test") & (training.width == 30)].samples.unique().item()
    trained = training[(training.inputs == "train") & (training.epoch == 680)]
    plateau = effects.plateau(trained)
    assert numbers(found()[4]) == written(
        paper.n_train,
        paper.checkpoints[-1],
        0,
        40,
        30,
        samples,
        *early,
        0,
        680,
        *falls[0],
        10,
        20,
        30,
        1,
        *rises[0],
        5,
        10,
        20,
        2,
        30,
        paper.n_train,
        trained[trained.width >= plateau].exact.unique().item(),
        plateau,
    )


def test_what_the_count_does_in_the_readme_is_computed_from_the_tables(tables):
    read = effects.readings(tables["training"], "epoch", 0, 680).loc["train"].loc[[5, 10]]
    fell = (read[effects.RANKS["svd_float32_softmax"]] < 1).sum()
    rose = (read[effects.RANKS["exact"]] > 1).sum()
    at = {
        name: t[(t.width == 30) & (t.inputs == "train")].dropna(subset="svd_seconds")
        for name, t in tables.items()
        if name in ("training", "noise", "labels")
    }
    assert all(
        (table.exact == 5400).all() and (table.sample_bound == 5400).all() for table in at.values()
    )
    first = at["training"][at["training"].seed == 0].set_index("epoch").svd_float32_softmax
    noisy, random = (
        at[name][(at[name].seed == 0) & (at[name][column] > 0)].svd_float32_softmax.item()
        for name, column in (("noise", "noise"), ("labels", "random_labels"))
    )
    figure = pd.read_csv(ROOT / "figures" / "data" / "10_2_readings.csv").set_index(
        ["entries", "epoch"]
    )
    exact, counted = figure.exact["float64"], figure.svd["float32"]
    bound = figure.bound.max()
    assert (counted > bound).idxmax() == 0 and (counted > bound).sum() > 1
    assert numbers(found()[5]) == written(
        5,
        10,
        600,
        680,
        fell,
        len(read),
        rose,
        30,
        600,
        5400,
        *map(int, (first[0], first[680], 0, noisy, random)),
        5,
        200,
        exact[0],
        exact[680],
        counted[0],
        counted[680],
        bound,
    )


def test_what_is_fast_in_the_readme_was_measured():
    measured = json.loads((ROOT / "benchmarks" / "results.json").read_text())["lu"]
    net = relu_mlp([784, 30, 30, 30, 10])
    parameters = sum(p.numel() for p in net.parameters())
    assert (
        measured["reached"]
        and "to reach" in measured
        and float(measured["measured"].split("×")[0]) < 1
    )
    assert numbers(found()[6].split("*Figure")[1]) == written(
        10.2, 5, 0, 200, 30, 600, 6000, parameters, 6000, 6000
    )
