"""The rule behind every verdict, on small tables whose verdicts are plain."""

import pandas as pd
import pytest

from fdimlib import effects

BOUND = 90


def runs(*ranks, dead=(), width=5, inputs="train"):
    """Two rows for each pair of ranks: a network before and after; seeds are numbered."""
    return pd.DataFrame([{"inputs": inputs, "width": width, "seed": seed, "epoch": epoch, "exact": rank,
                          "sample_bound": BOUND, "dead": seed in dead and epoch == 9}
                         for seed, pair in enumerate(ranks) for epoch, rank in zip((0, 9), pair)])


def judge(table, sign=-1, rank="exact"):
    return effects.verdict(effects.pairs(table, "epoch", 0, 9, rank), sign)


@pytest.mark.parametrize("ranks, falls, rises", [
    ([(50, 40), (60, 59)], "holds", "fails"),
    ([(50, 40), (50, 60)], "mixed", "mixed"),
    ([(50, 40), (50, 50)], "mixed", "fails"),
    ([(50, 50), (50, 50)], "fails", "fails"),
    ([(BOUND, BOUND)], "not visible", "not visible"),
    ([(BOUND, BOUND), (BOUND, 80)], "holds", "fails"),
    ([(80, BOUND), (BOUND, BOUND)], "fails", "holds"),
])
def test_a_claim_is_judged_by_the_free_networks_alone(ranks, falls, rises):
    assert judge(runs(*ranks), -1) == falls
    assert judge(runs(*ranks), 1) == rises


def test_a_network_dead_on_one_sample_is_left_out_on_all():
    tables = [runs((50, 9), (50, 60), dead=(0,)), runs((70, 12), (70, 80), inputs="test")]
    found = effects.pairs(pd.concat(tables), "epoch", 0, 9)
    assert found.dead.groupby("seed").all().tolist() == [True, False]
    assert effects.verdict(found.loc[["test"]], -1) == "fails"
    assert judge(runs((50, 9), dead=(0,))) == "all dead"


def test_only_pairs_count_and_they_are_in_order():
    table = pd.concat([runs((50, 40), inputs="test"), runs((50, 30), width=30), runs((50, 60), (50, 70), width=5)]).iloc[:-1]
    found = effects.pairs(table, "epoch", 0, 9)
    assert found.index.tolist() == [("train", 5, 0), ("train", 30, 0), ("test", 5, 0)]
    assert found.ratio.tolist() == [1.2, 0.6, 0.8]


def test_counts_of_singular_values_are_never_forced():
    table = runs((BOUND, BOUND)).assign(svd_float32_softmax=[120, 100])
    assert judge(table) == "not visible"
    assert judge(table, rank="svd_float32_softmax") == "holds"


def test_readings_stand_side_by_side_for_the_counted_and_living():
    table = runs((50, 60), (50, 9), (50, 70), dead=(1,)).assign(svd_seconds=[1.0] * 4 + [None] * 2)
    for rank in set(effects.RANKS) - {"exact"}:
        table[rank] = [90, 45] * 3
    found = effects.readings(table, "epoch", 0, 9)
    assert list(found) == list(effects.RANKS.values())
    assert found.loc[("train", 5, 0)].tolist() == [0.5, 0.5, 1.2, 0.5, 0.5]
    assert ("train", 5, 2) not in found.index
    assert found.dropna().index.get_level_values("seed").tolist() == [0]


def test_a_plateau_begins_where_no_later_rank_is_below_the_sample_bound():
    ranks = {5: (40, BOUND), 10: (BOUND, BOUND), 15: (BOUND, 80), 20: (BOUND, BOUND), 30: (BOUND, BOUND)}
    table = pd.concat([runs(pair, width=width) for width, pair in ranks.items()])
    assert effects.plateau(table) == 20
    assert effects.plateau(table[table.width <= 10]) == 10
    assert effects.plateau(table[table.width <= 15]) is None
