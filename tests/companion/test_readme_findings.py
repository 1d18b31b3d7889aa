"""Every number of the README's findings, computed from the committed tables."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from fdimlib.companion import effects, sweeps
from fdimlib.companion.experiments import experiments
from fdimlib.companion.presets import PRESETS
from fdimlib.symmetries import relu_mlp

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
NUMBER = re.compile(
    r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])"
)  # 5, 1,951, 98.5; not r2, 784-w or 10_2


def findings():
    """What the README found, the introduction first, then one text an item.

    Links and the names of networks are taken out.
    """
    section = README.split("## Found so far")[1].split("## Two commands")[0]
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


def digits_below_gaussian(table):
    """The widths at which every living network has less rank on test digits, after and before.

    Without those at which the Gaussian inputs' rank is their sample bound.
    """
    gone = table.groupby(["width", "seed", "epoch"]).dead.transform("any")
    ranks = table[~gone].pivot(index=["epoch", "width", "seed"], columns="inputs", values="exact")
    ranks = ranks[ranks.gaussian < table[table.inputs == "gaussian"].sample_bound.max()]
    all_below = (ranks.test < ranks.gaussian).groupby(["epoch", "width"]).all()
    return [[w for w, below in all_below[epoch].items() if below] for epoch in (680, 0)]


def test_the_readme_has_at_most_five_findings_and_says_first_what_holds():
    introduction, *items, _ = findings()
    assert 3 <= len(items) <= 5
    assert "hold" in items[0] and "hold" in items[1]
    assert "being measured" in introduction and "predictions.md" in README


def test_the_setting_in_the_readme_is_that_of_the_preset():
    paper, large = PRESETS["paper"], PRESETS["large"]
    few = sorted(width for width in paper.widths if len(paper.seeds_of(width)) == 3)
    assert numbers(findings()[0])[:-2] == written(
        paper.n_train,
        paper.checkpoints[-1],
        paper.widths[0],
        paper.widths[-1],
        *few,
        large.n_train,
        large.checkpoints[-1],
    )
    assert len(paper.seeds) == 5


def test_first_looks_in_the_readme_are_those_written_down():
    page = " ".join((ROOT / "notebooks" / "predictions.md").read_text().split())
    assert numbers(findings()[0])[-2:] == ["10", "30"]
    assert "w = 10 fell in three of six seeds, by up to a third" in page
    start, _, end = map(
        int,
        re.search(r"w = 30 went ([\d,]+) → ([\d,]+) → ([\d,]+)", page)[0]
        .replace(",", "")
        .removeprefix("w = 30 went ")
        .split(" → "),
    )
    assert 0.95 * start < end < start
    large = pd.read_csv(sweeps.published("training", "large"))
    recorded = effects.pairs(large[large.seed < 2], "epoch", 0, 3000).ratio.xs(30, level="width")
    assert len(recorded) == 4 and recorded.between(1, 1.05, inclusive="neither").all()


def test_what_holds_in_the_readme_is_computed_from_the_tables(tables):
    full, width = tables["full_dimension"], tables["width"]
    share = (full.exact / full.parameters)[(full.width >= 5) & ~full.dead]
    digits = width[width.inputs == "train"]
    plateau = {epoch: effects.plateau(rows) for epoch, rows in digits.groupby("epoch")}
    bound = digits[digits.width >= plateau[0]].exact.unique().item()
    labels, noisy = tables["labels"], tables["noise"][tables["noise"].epoch == 680]
    wide, wider = (seeds_that(1, labels, "random_labels", 0.0, 1.0, "test", w) for w in (30, 45))
    noise = [seeds_that(1, noisy, "noise", 0.0, 5.0, "test", w) for w in (30, 45)]
    first, second = digits_below_gaussian(width)
    raised = effects.pairs(labels, "random_labels", 0.0, 1.0).ratio.loc["test"].loc[30] - 1
    nudged = effects.placebo(tables["placebo"], 680).ratio.loc["test"].loc[30] - 1
    size = [round(100 * raised.min()), round(100 * raised.max())]
    assert 100 * nudged.abs().max() <= 0.1 < 100 * raised.min()
    assert wide[0] == wide[1] and wider[0] == wider[1]
    assert 0.98 < share.min() and int(1000 * share.min()) / 10 == 98.5
    samples = labels[(labels.inputs == "test") & (labels.width >= 30)].samples.unique().item()
    assert numbers(findings()[2]) == written(
        int(1000 * share.min()) / 10,
        5,
        width[width.inputs == "gaussian"].samples.unique().item(),
        first[0],
        first[-1],
        second[0],
        second[-1],
        bound,
        plateau[680],
        plateau[0],
        samples,
        30,
        *wide,
        1,
        2 ** wide[1],
        *size,
        0.1,
        45,
        *wider,
        1,
        2 ** wider[1],
        *noise[0],
        *noise[1],
    )


def test_what_narrow_networks_do_in_the_readme_is_computed_from_the_tables(tables):
    labels, noisy = tables["labels"], tables["noise"][tables["noise"].epoch == 680]
    lower = seeds_that(-1, labels, "random_labels", 0.0, 1.0, "test", 10)
    assert lower == seeds_that(-1, noisy, "noise", 0.0, 5.0, "test", 10)
    small = {
        inputs: seeds_that(1, noisy, "noise", 0.0, 0.1, inputs, 5) for inputs in ("train", "test")
    }
    assert small["train"] == small["test"]
    assert numbers(findings()[3]) == written(10, *lower, 0.1, 5, *small["test"])


def test_what_training_does_in_the_readme_is_computed_from_the_tables(tables):
    training, full = tables["training"], tables["full_dimension"]
    early = seeds_that(-1, training, "epoch", 0, 40, "test", 30)
    falls = [seeds_that(-1, full, "epoch", 0, 680, "growing", w) for w in (10, 20, 30)]
    least = effects.pairs(full, "epoch", 0, 680).loc["growing"].ratio.loc[[10, 20, 30]].min()
    rises = {
        w: seeds_that(1, training, "epoch", 0, 680, "test", w)
        for w in (2, 3, 5, 10, 15, 20, 30, 45)
    }
    wide = effects.pairs(training, "epoch", 0, 680).loc["test"].ratio.loc[30]
    since = {w: seeds_that(-1, training, "epoch", 40, 680, "test", w) for w in rises}
    assert [w for w in since if w >= 5 and since[w][0]] == []
    assert falls[0] == falls[1] == falls[2] and 0.99 <= least < 0.995
    assert (
        rises[5] == rises[10] == rises[20]
        and wide.between(0.98, 1.02).all()
        and not wide.between(0.99, 1.01).all()
    )
    samples = training[(training.inputs == "test") & (training.width == 30)].samples.unique().item()
    assert numbers(findings()[4]) == written(
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
        *rises[5],
        5,
        10,
        20,
        *rises[15],
        15,
        *rises[30],
        30,
        2,
        *rises[45],
        45,
        *rises[2],
        2,
        *rises[3],
        3,
        40,
        *since[2],
        2,
        5,
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
    assert numbers(findings()[5]) == written(
        5,
        10,
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
    assert numbers(findings()[6].split("*Figure")[1]) == written(
        10.2, 5, 0, 200, 30, 600, 6000, parameters, 6000, 6000
    )
