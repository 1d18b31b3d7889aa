"""Spikes of the loss: the rule of notebooks/predictions.md, and the points that follow from it."""

import pytest

from fdimlib.companion.experiments import Point, Run, experiments
from fdimlib.companion.spikes import Spike, largest, spikes

CALM = [0.01] * 60


def test_a_calm_or_a_falling_loss_has_no_spike():
    assert spikes(CALM) == []
    assert spikes([1 / epoch for epoch in range(1, 200)]) == []


@pytest.mark.parametrize("loss, found", [(0.109, False), (0.11, True)])
def test_a_spike_is_a_tenth_of_a_nat_above_the_median_at_least(loss, found):
    assert bool(spikes([*CALM, loss, *CALM])) == found


@pytest.mark.parametrize("loss, found", [(1.99, False), (2.0, True)])
def test_a_spike_doubles_the_loss_at_least(loss, found):
    assert bool(spikes([1.0] * 60 + [loss] + [1.0] * 20)) == found


def test_the_first_forty_epochs_have_none():
    assert spikes([0.01] * 39 + [5.0] + [0.01] * 30) == []
    assert [spike.begin for spike in spikes([0.01] * 40 + [5.0] + [0.01] * 30)] == [41]


def test_a_spike_ends_at_one_and_a_half_of_the_median_before_it():
    (spike,) = spikes([*CALM, 1.0, 0.5, 0.016, 0.015, *CALM])
    assert (spike.begin, spike.top, spike.end, spike.over) == (61, 61, 64, True)
    assert spike.size == pytest.approx(1.0 + 0.5 + 0.016 - 0.03)


def test_a_spike_that_never_comes_down_ends_with_the_run():
    (spike,) = spikes(CALM + [1.0] * 30)
    assert (spike.end, spike.over, spike.lasting) == (90, False, True)
    assert spike.epochs(90) == {"before": 60, "top": 61, "end": 90, "after": 90}


@pytest.mark.parametrize("epochs, lasting", [(20, False), (21, True)])
def test_lasting_is_more_than_twenty_epochs(epochs, lasting):
    (spike,) = spikes(CALM + [1.0] * epochs + CALM)
    assert spike.lasting == lasting


def test_the_largest_are_told_in_order_of_time():
    heights = (3.0, 1.0, 2.0, 4.0)
    losses = CALM + [loss for height in heights for loss in [height, *CALM]]
    assert [round(spike.size + 0.01) for spike in largest(losses)] == [3, 2, 4]


def test_every_spike_of_the_published_losses_has_its_four_ranks_asked_for():
    large = experiments("large")
    assert {point.method for point in large["spikes"]} <= {"exact"}
    assert {(p.run, p.epoch) for p in large["spikes"]} <= {
        (p.run, p.epoch) for p in large["explanation"]}


def test_times_around_a_spike_are_within_the_run():
    assert Spike(100, 101, 2990, 1.0, True).epochs(3000)["after"] == 3000


def test_a_learning_rate_makes_another_point_and_the_protocols_own_changes_no_key():
    point, other = Point(Run(10, 0), 40, "train", 600), Point(Run(10, 0, lr=0.3), 40, "train", 600)
    assert point.key == Point(Run(10, 0, lr=0.1, decay=0.0), 40, "train", 600).key
    assert not {"lr", "decay"} & set(point.fields)
    assert other.key != point.key
    assert Point.from_fields(other.fields) == other
