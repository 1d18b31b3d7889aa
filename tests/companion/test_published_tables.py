"""The committed tables: sound, of one protocol, and with the facts that the README tells."""

from pathlib import Path

import pandas as pd
import pytest

from fdimlib.companion import experiments, sweeps
from fdimlib.companion.experiments import Point

DATA = Path(__file__).parents[2] / "figures" / "data"


def published(name):
    return pd.read_csv(sweeps.published(name, "paper"))


def test_they_are_sound_and_show_one_network_for_each_run_and_epoch():
    names = [name for name in experiments.TABLES if sweeps.published(name, "paper").exists()]
    rows = pd.concat([published(name) for name in names], ignore_index=True)
    assert {"training", "width", "noise", "labels", "full_dimension"} <= set(names)
    assert (rows.protocol == experiments.PROTOCOL).all() and sweeps.sound(rows)
    assert (rows.exact <= rows[["sample_bound", "parameter_bound"]].min(axis=1)).all()
    run = ["width", "seed", "n_train", "noise", "random_labels", "digits", "epoch"]
    assert (rows.groupby(run).weights.nunique() == 1).all()
    settings = rows[[*run, "inputs", "samples"]].assign(method="exact").to_dict("records")
    assert [Point.from_fields(setting).key for setting in settings] == rows.key.tolist()


def test_in_the_figure_of_readings_the_exact_rank_rises_while_the_released_default_falls():
    readings = pd.read_csv(DATA / "10_2_readings.csv").set_index(["entries", "epoch"]).sort_index()
    exact, counted = readings.exact["float64"], readings.svd["float32"]
    assert exact.iloc[0] < exact.iloc[-1]
    assert counted.iloc[0] > counted.iloc[-1]
    assert counted.iloc[0] > readings.bound.max(), "its first reading is one that no rank can be"


@pytest.fixture(scope="module")
def counted_at_width_30():
    """Experiment → the networks of width 30 on the training digits whose values were counted."""
    tables = {name: published(name) for name in ("training", "noise", "labels")}
    return {name: rows[(rows.width == 30) & (rows.inputs == "train")].dropna(subset="svd_seconds")
            for name, rows in tables.items()}


def test_at_width_30_the_exact_rank_of_600_digits_is_the_sample_bound(counted_at_width_30):
    for rows in counted_at_width_30.values():
        assert len(rows) and (rows.exact == rows.sample_bound).all()
        assert (rows.sample_bound == 9 * 600).all()


@pytest.mark.parametrize("name, column", [("noise", "noise"), ("labels", "random_labels")])
def test_at_width_30_the_released_default_falls_with_training_and_rises_with(
        name, column, counted_at_width_30):
    def counts(rows):
        return rows.set_index("seed").svd_float32_softmax

    training, changed = counted_at_width_30["training"], counted_at_width_30[name]
    before, after = (counts(training[training.epoch == epoch]) for epoch in (0, 680))
    assert (after < before).all()
    rises = counts(changed[changed[column] > 0]) > after
    assert len(rises.dropna()) and rises.all()
