"""The rules for claims that are not about a direction, and when a width is judged at all."""

import pandas as pd
import pytest

from fdimlib.companion.claims import committed
from fdimlib.companion.judgements import (
    CLOSE,
    EVERY_WIDTH,
    Close,
    Direction,
    Plateau,
    Support,
    found,
    steps,
)

SAMPLE, PARAMETERS = 90, 100
FALL = Direction("epoch", 0, 9, -1, "train")


def rows(exact, inputs="train", epoch=9, width=5, dead=(), sample=SAMPLE, parameters=PARAMETERS):
    """One row for each rank: networks of a width, seeds numbered."""
    return pd.DataFrame([
        {"inputs": inputs, "width": width, "seed": seed, "epoch": epoch, "exact": rank,
         "sample_bound": sample, "parameter_bound": parameters - 2, "parameters": parameters,
         "bound": min(sample, parameters - 2), "dead": seed in dead}
        for seed, rank in enumerate(exact)])


def curve(ranks_by_width, inputs="train"):
    """As `rows`, for several widths."""
    return pd.concat([rows(ranks, inputs, width=width) for width, ranks in ranks_by_width.items()],
                     ignore_index=True)


def judged(rule, table, plan=None):
    return found(rule, table, table if plan is None else plan)


def test_a_width_is_judged_once_all_its_planned_networks_are_measured():
    plan = pd.concat([rows([0, 0], epoch=0), rows([0, 0])])
    measured = pd.concat([rows([50, 50], epoch=0), rows([40])])
    assert judged(FALL, measured, plan) == {"5": "not yet measured (1 of 2 networks)"}
    assert judged(FALL, measured.iloc[:0], plan) == {"5": "not yet measured (0 of 2 networks)"}
    both = pd.concat([rows([50, 50], epoch=0), rows([40, 60])])
    assert judged(FALL, both, plan) == {"5": "mixed (1 of 2)"}


def test_what_is_not_planned_is_not_judged():
    plan = pd.concat([rows([0], epoch=0), rows([0])])
    more = pd.concat([rows([50, 50], epoch=0), rows([40, 60]), rows([7], epoch=0, width=7)])
    assert judged(FALL, more, plan) == {"5": "holds (1 of 1, chance 1/2)"}
    assert judged(FALL, more, rows([0])) == {}, "no pair is planned"


def test_widths_come_in_order():
    table = pd.concat([curve({30: [50], 5: [50], 10: [50]}).assign(epoch=0),
                       curve({30: [40], 5: [60], 10: [40]})])
    assert list(judged(FALL, table)) == ["5", "10", "30"]


def test_below_the_widths_of_a_claim_nothing_fails():
    claim = Direction("epoch", 0, 9, 1, "train", claimed_from=30)
    table = pd.concat([curve({5: [50, 50], 30: [50, 50]}).assign(epoch=0),
                       curve({5: [40, 60], 30: [40, 40]})])
    assert judged(claim, table) == {"5": "not claimed (1 of 2 rise)", "30": "fails (0 of 2)"}


def test_the_rest_is_held_where_the_rule_says():
    claim = Direction("noise", 0.0, 5.0, 1, "test", where={"epoch": 9})
    table = pd.concat([rows([50], "test").assign(noise=0.0), rows([60], "test").assign(noise=5.0),
                       rows([70], "test", epoch=0).assign(noise=0.0)])
    assert judged(claim, table) == {"5": "holds (1 of 1, chance 1/2)"}


def test_a_network_dead_on_the_training_digits_is_left_out_on_test_digits():
    table = pd.concat([rows([50, 50], inputs, 0) for inputs in ("train", "test")]
                      + [rows([40, 40], "train", dead=(0,)), rows([40, 60], "test")])
    assert judged(Direction("epoch", 0, 9, -1, "test"), table) == {"5": "fails (0 of 1)"}


@pytest.mark.parametrize("ranks, verdict", [
    ([96, 97, 99], "holds (3 of 3, least 0.960 P)"),
    ([96, 97, 20], "holds (2 of 3, least 0.200 P)"),  # "often"
    ([96, 94, 20, 99], "mixed (2 of 4, least 0.200 P)"),  # half is not more than half
    ([94, 20], "fails (0 of 2, least 0.200 P)"),
])
def test_often_close_is_more_than_half_within_five_percent(ranks, verdict):
    assert CLOSE == 0.95
    assert judged(Close("growing", 9), rows(ranks, "growing", sample=1000)) == {"5": verdict}


def test_on_a_sample_of_one_size_a_rank_that_is_not_close_says_little():
    fixed = Close("gaussian", 9)
    assert judged(fixed, rows([94, 20], "gaussian", sample=99)) == {
        "5": "not reached (0 of 2, least 0.200 P)"}
    assert judged(fixed, rows([90, 90], "gaussian", sample=90)) == {"5": "no network can tell"}
    assert judged(fixed, rows([97, 9], "gaussian", sample=99, dead=(1,))) == {
        "5": "holds (1 of 1, least 0.970 P)"}


def test_the_limit_of_close_decides_nothing_at_the_released_setting():
    table = committed("full_dimension", "paper")
    shares = (table.exact / table.parameters)[~table.dead]
    assert len(shares) > 60 and not shares.between(0.89, 0.97).any()


def test_a_least_share_is_never_rounded_up():
    table = rows([9999], "growing", sample=99_999, parameters=10_000)
    assert "least 0.999 P" in judged(Close("growing", 9), table)["5"]


@pytest.mark.parametrize("ranks, word", [
    ({2: 20, 3: 40, 5: 60, 10: 60}, "holds"),
    ({2: 20, 3: 40, 5: 60, 10: 60.5}, "holds"),  # level within one percent
    ({2: 20, 3: 40, 5: 60, 10: 62}, "no plateau seen"),
    ({2: 20, 3: 40, 5: 30, 10: 60}, "mixed"),
    ({2: 20, 3: 60, 5: 50, 10: 50}, "mixed"),
    ({2: 60, 3: 40, 5: 30, 10: 20}, "fails"),
    ({2: 60, 3: 60, 5: 60, 10: 60}, "fails"),  # nothing increased first
])
def test_a_curve_increases_first_and_then_is_stable(ranks, word):
    verdict = judged(Plateau("train", 9), curve({w: [rank] for w, rank in ranks.items()}))
    assert verdict[EVERY_WIDTH].split(" (")[0] == word


def test_a_plateau_tells_where_it_begins_and_whether_the_sample_makes_it():
    free, forced = curve({2: [20], 3: [60], 5: [60]}), curve({2: [20], 3: [SAMPLE], 5: [SAMPLE]})
    told = [judged(Plateau("train", 9), table)[EVERY_WIDTH] for table in (free, forced)]
    assert told == [
        "holds (1 steps up, 0 down, 0 level at the sample bound, 1 level below it; "
        "level from w = 3 on)",
        "holds (1 steps up, 0 down, 1 level at the sample bound, 0 level below it; "
        "level from w = 3 on; every rank is the sample bound from w = 3 on)"]


def test_a_curve_is_judged_as_a_whole_or_not_at_all():
    plan = curve({2: [0, 0], 3: [0, 0], 5: [0, 0]})
    assert judged(Plateau("train", 9), curve({2: [20, 20], 3: [60]}), plan) == {
        EVERY_WIDTH: "not yet measured (3 of 6 networks)"}


def test_steps_are_those_of_living_networks():
    table = curve({2: [20, 20, 9], 3: [40, 10, SAMPLE], 5: [40, SAMPLE, SAMPLE]})
    table.loc[(table.width == 2) & (table.seed == 2), "dead"] = True
    assert steps(table).to_dict() == {
        "all": 5, "up": 2, "down": 1, "at_the_bound": 1, "below": 1}


def support(digits, gaussian, **kw):
    return pd.concat([rows(digits, "test", **kw), rows(gaussian, "gaussian", **kw)])


@pytest.mark.parametrize("digits, gaussian, verdict", [
    ([50, 60], [70, 70], "holds (2 of 2, chance 1/4)"),
    ([50, 70], [70, 60], "mixed (1 of 2)"),
    ([70, 70], [70, 60], "fails (0 of 2)"),
    # The sample holds the Gaussian rank back: how much larger it is cannot be seen.
    ([50, 60], [SAMPLE, 70], "holds (1 of 1, chance 1/2)"),
    ([50, SAMPLE], [SAMPLE, SAMPLE], "no pair can tell"),
])
def test_on_the_support_the_rank_is_smaller(digits, gaussian, verdict):
    assert judged(Support(9), support(digits, gaussian)) == {"5": verdict}


def test_a_gaussian_rank_at_what_the_parameters_leave_counts():
    full = PARAMETERS - 2
    table = support([50, full], [full, full], sample=1000)
    assert judged(Support(9), table) == {"5": "mixed (1 of 2, 1 censored)"}
    networks = Support(9).networks(table)
    assert networks.limit_gaussian.tolist() == ["parameters", "parameters"]
    assert networks.limit_digits.tolist() == ["none", "parameters"]
    assert networks.of_P_digits.tolist() == [0.5, 0.98]


def test_the_support_is_not_judged_without_the_gaussian_ranks():
    plan, measured = support([0, 0], [0, 0]), rows([50, 60], "test")
    assert judged(Support(9), measured, plan) == {"5": "not yet measured (0 of 2 networks)"}
    assert Support(9).networks(measured).empty


def test_a_network_dead_on_any_inputs_is_not_compared_on_the_support():
    table = pd.concat([support([50, 60], [70, 50]), rows([9, 9], dead=(1,))])
    assert judged(Support(9), table) == {"5": "holds (1 of 1, chance 1/2)"}
