"""The rule behind every verdict, on small tables whose verdicts are plain."""

import pandas as pd
import pytest

from fdimlib.companion import effects

BOUND = 90


def runs(*ranks, dead=(), width=5, inputs="train", bound=BOUND):
    """Two rows for each pair of ranks: a network before and after; seeds are numbered."""
    return pd.DataFrame([{"inputs": inputs, "width": width, "seed": seed, "epoch": epoch,
                          "exact": rank, "bound": bound, "sample_bound": bound,
                          "dead": seed in dead and epoch == 9}
                         for seed, pair in enumerate(ranks) for epoch, rank in zip((0, 9), pair)])


def judge(table, sign=-1, rank="exact"):
    return effects.verdict(effects.pairs(table, "epoch", 0, 9, rank), sign)


@pytest.mark.parametrize("ranks, falls, rises", [
    ([(50, 40), (60, 59)], "holds (2 of 2, chance 1/4)", "fails (0 of 2)"),
    ([(50, 40), (50, 60)], "mixed (1 of 2)", "mixed (1 of 2)"),
    ([(50, 40), (50, 50)], "mixed (1 of 2)", "fails (0 of 2)"),
    ([(50, 50), (50, 50)], "fails (0 of 2)", "fails (0 of 2)"),
    # A rank at its bound can fall: none of these did, though smaller falls would not show.
    # It cannot rise: nothing to judge.
    ([(BOUND, BOUND)], "no fall seen (0 of 1, 1 censored)", "no pair can tell"),
    # A genuine fall beside a censored pair: a fall is mixed; of a rise neither pair can speak.
    ([(BOUND, BOUND), (BOUND, 80)], "mixed (1 of 2, 1 censored)", "no pair can tell"),
    ([(BOUND, 80)], "holds (1 of 1, chance 1/2)", "no pair can tell"),
    # Ending at the bound is a rise; beginning there is none.
    ([(80, BOUND), (BOUND, BOUND)], "fails (0 of 2, 1 censored)", "holds (1 of 1, chance 1/2)"),
    ([(80, 70), (BOUND, BOUND)], "mixed (1 of 2, 1 censored)", "fails (0 of 1)"),
])
def test_a_claim_is_judged_by_the_pairs_that_can_speak_about_its_direction(ranks, falls, rises):
    assert str(judge(runs(*ranks), -1)) == falls
    assert str(judge(runs(*ranks), 1)) == rises


def test_what_is_left_out_is_counted():
    table = runs((BOUND, BOUND), (BOUND, 80), (50, 60), (50, 9), dead=(3,))
    found = effects.pairs(table, "epoch", 0, 9)
    rise, fall = effects.verdict(found, 1), effects.verdict(found, -1)
    assert (rise.counted, rise.capped, rise.dead, rise.censored) == (1, 2, 1, 0)
    assert (fall.counted, fall.capped, fall.dead, fall.censored) == (3, 0, 1, 1)
    assert (rise.chance, fall.chance) == (1 / 2, 1 / 4)


def test_a_censored_network_is_no_coin():
    """It could not be seen to move, so it makes unanimity no less likely."""
    assert judge(runs(*[(BOUND, BOUND)] * 4, (80, 90)), -1).chance == 1 / 2
    assert judge(runs((BOUND, BOUND)), -1).chance == judge(runs((BOUND, BOUND)), 1).chance == 1


def test_a_network_dead_on_one_sample_is_left_out_on_all():
    tables = [runs((50, 9), (50, 60), dead=(0,)), runs((70, 12), (70, 80), inputs="test")]
    found = effects.pairs(pd.concat(tables), "epoch", 0, 9)
    assert found.dead.groupby("seed").all().tolist() == [True, False]
    assert effects.verdict(found.loc[["test"]], -1).word == "fails"
    assert judge(runs((50, 9), dead=(0,))).word == "no pair can tell"


def test_the_placebo_compares_nudged_runs_on_the_digits_themselves():
    plain, nudged = runs((50, 60), (70, 80)), runs((50, 66), (70, 72), inputs="clean")
    table = pd.concat([plain.assign(noise=0.0), nudged.assign(noise=effects.NUDGE)])
    assert effects.placebo(table, 9).ratio.to_dict() == {("train", 5, 0): 1.1, ("train", 5, 1): 0.9}
    assert effects.placebo(table, 0).ratio.tolist() == [1, 1]


def test_only_pairs_count_and_they_are_in_order():
    tables = [runs((50, 40), inputs="test"), runs((50, 30), width=30), runs((50, 60), (50, 70))]
    table = pd.concat(tables).iloc[:-1]
    found = effects.pairs(table, "epoch", 0, 9)
    assert found.index.tolist() == [("train", 5, 0), ("train", 30, 0), ("test", 5, 0)]
    assert found.ratio.tolist() == [1.2, 0.6, 0.8]


def test_counts_of_singular_values_have_no_bound():
    table = runs((BOUND, BOUND)).assign(svd_float32_softmax=[120, 100])
    assert judge(table).word == "no fall seen"
    assert judge(table, rank="svd_float32_softmax").word == "holds"
    risen = table.assign(svd_float32_softmax=[BOUND, 100])
    assert judge(risen, sign=1, rank="svd_float32_softmax").word == "holds"


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
    full = (BOUND, BOUND)
    ranks = {5: (40, BOUND), 10: full, 15: (BOUND, 80), 20: full, 30: full}
    table = pd.concat([runs(pair, width=width) for width, pair in ranks.items()])
    assert effects.plateau(table) == 20
    assert effects.plateau(table[table.width <= 10]) == 10
    assert effects.plateau(table[table.width <= 15]) is None
