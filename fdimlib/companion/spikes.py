"""Spikes of the loss, found by a rule that was fixed before any loss was looked at.

Let L_e be the mean cross-entropy of epoch e, each batch before the step that it led to, and m the
median of the 20 epochs before e. A spike *begins* at an epoch e > 40 with L_e ≥ 2 m and
L_e ≥ m + 0.1 nats. It *ends* at the first later epoch whose loss is at most 1.5 m, m as it was at
the beginning, or with the run; no other spike begins while it lasts. It is *lasting* if it takes
more than 20 epochs. Its *size* is the sum of L − m over its epochs. The rule, and what was expected
of the ranks around spikes, stand in notebooks/predictions.md.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

FIRST = 41  # the authors' first checkpoint is over: losses fall fast before it
WINDOW = 20  # epochs: of the median, of a short spike, and of the look at what came after
FACTOR, STEP, OVER = 2.0, 0.1, 1.5


@dataclass(frozen=True)
class Spike:
    """One spike of a run's loss.

    Attributes:
        begin: its first epoch.
        top: the epoch of its largest loss.
        end: the first epoch after it, or the last of the run.
        size: the sum of L − m over its epochs, in nats.
        over: whether the loss came down again before the run ended.
    """

    begin: int
    top: int
    end: int
    size: float
    over: bool

    @property
    def lasting(self) -> bool:
        return self.end - self.begin > WINDOW

    def epochs(self, last: int) -> dict[str, int]:
        """When ranks are taken: just before it, at its largest loss, at its end, and later."""
        return {"before": self.begin - 1, "top": self.top, "end": self.end,
                "after": min(self.end + WINDOW, last)}


def spikes(losses: Sequence[float]) -> list[Spike]:
    """All spikes of a run, in order.

    Args:
        losses: the mean loss of the epochs 1, 2, …

    >>> calm, wild = [0.01] * 60, [0.5, 2.0, 0.3]
    >>> spikes(calm + wild + calm)
    [Spike(begin=61, top=62, end=64, size=2.77, over=True)]
    """
    return list(_walk(losses))


def _walk(losses: Sequence[float]) -> Iterator[Spike]:
    at = [float("nan"), *losses]  # at[e] is the loss of epoch e
    last, epoch = len(losses), FIRST
    while epoch <= last:
        usual = median(at[epoch - WINDOW:epoch])
        if at[epoch] < FACTOR * usual or at[epoch] < usual + STEP:
            epoch += 1
            continue
        down = [later for later in range(epoch + 1, last + 1) if at[later] <= OVER * usual]
        end = min(down, default=last)
        inside = range(epoch, end if down else last + 1)
        size = round(sum(at[e] - usual for e in inside), 4)
        yield Spike(epoch, max(inside, key=at.__getitem__), end, size, bool(down))
        epoch = end if down else last + 1


def largest(losses: Sequence[float], count: int = 3) -> list[Spike]:
    """The largest spikes of a run, at most `count`, in order of time."""
    found = sorted(spikes(losses), key=lambda spike: -spike.size)[:count]
    return sorted(found, key=lambda spike: spike.begin)


def recorded(table: Path) -> dict[str, list[float]]:
    """The losses of a published table, one list for each value of its column `key`."""
    if not table.exists():
        return {}
    csv.field_size_limit(10**8)  # thousands of epochs stand in one field
    with table.open(newline="", encoding="utf-8") as file:
        return {row["key"]: [float(loss) for loss in row["losses"].split()]
                for row in csv.DictReader(file)}
