"""What a change does to the rank, network by network, and the verdict on a claim about it.

One rule for every experiment. A change is an experiment's column with a value before and one
after: epochs, noise, random labels. Networks of one width and seed are compared with each other,
on the same digits and from the same initial weights.

**The rule.** A claim names a direction: the rank rises, or it falls. Each network of one width
and one kind of inputs is a pair of ranks, and a pair counts unless it cannot speak:

- *A rank at its bound cannot rise.* Such a pair says nothing about a claimed rise, wherever it
  ends: it is left out.
- *A rank at its bound can fall.* So for a claimed fall every pair counts. Where both ranks are
  at the bound there was no fall below the bound; a smaller one could not be seen. Such pairs
  count as "no fall" and are called *censored*, as a lifetime is whose end was not observed.
- *A dead network*, silent in a whole hidden layer, has rank N_L − 1 whatever it learned: left
  out, on all its samples.

The claim "holds" where every pair that counts moved in its direction, "fails" where none did, is
"mixed" otherwise. Where all that count are censored the verdict is "no fall seen": the sample
has room for nothing else. A rank that did not move counts against either direction.

**Chance.** m networks that rise or fall by the toss of a coin all go the claimed way with
probability 2^-m: 1/8 for three, 1/32 for five. It stands beside the verdict. It is the chance
for one claim, one width and one kind of inputs, fixed beforehand; several are looked at here, so
a few unanimous threes are expected by luck. A censored network is no coin, it could not be seen
to move: m is the number of those that count and are not censored. Training can amplify small
changes: what a nudge of the pixels by 1e-6 does to the rank is the *placebo*, and a change within
the placebo's range is not one that its supposed cause is needed for.

**Its history.** Records of 895 points (on training digits, all widths) were committed an hour
before any rule was. "Holds, mixed, fails" was then fixed before widths 15 and 20 entered the
experiments on noise and labels and before the 4,400 test digits were added; all networks were
trained anew since. That rule left out pairs with *both* ranks at the sample bound, for rises and
falls alike. Referees showed that this discards genuine non-falls, and counts as failed rises
pairs that *begin* at the bound and cannot rise. The present rule replaces it, with the tables as
they were; CHANGELOG.md tells which verdicts changed.
"""

from dataclasses import dataclass

import pandas as pd

from fdimlib.companion.experiments import NUDGE

RANKS = {
    "svd_float32_softmax": "float32, softmax (released default)",
    "svd_float32_logits": "float32, logits",
    "exact": "exact, softmax",
    "svd_float64_softmax": "float64, softmax",
    "svd_float64_logits": "float64, logits",
}
"""Columns of a table of `sweeps.results` that hold a rank, and how to call them."""


@dataclass(frozen=True)
class Verdict:
    """What some networks say about a claimed direction; `str` says the word and its counts.

    Attributes:
        word: "holds", "mixed", "fails", "no fall seen" (all that count are censored) or
            "no pair can tell".
        claimed, counted: networks that moved in the claimed direction, of those that count.
        censored: of those that count, how many are at the bound before and after.
        capped, dead: left out, because no rise was possible, or because the network is silent.
    """

    word: str
    claimed: int
    counted: int
    censored: int
    capped: int
    dead: int

    @property
    def chance(self) -> float:
        """The probability that coins, one for each that could be seen to move, all say "claimed".

        It is 1 where there is none.
        """
        return 2.0 ** (self.censored - self.counted)

    def __str__(self) -> str:
        if not self.counted:
            return self.word
        parts = [f"{self.claimed} of {self.counted}"]
        if self.censored:
            parts.append(f"{self.censored} censored")
        if self.word == "holds":
            parts.append(f"chance 1/{1 / self.chance:.0f}")
        return f"{self.word} ({', '.join(parts)})"


def pairs(
    table: pd.DataFrame, column: str, before: float | str, after: float | str,
    rank: str = "exact",
) -> pd.DataFrame:
    """The ratio of the ranks after and before a change.

    Args:
        table: as `sweeps.results` gives it.
        column: what changes, from `before` to `after`; all else that varies must be in the index
            of the result.
        rank: a key of `RANKS`.

    Returns:
        One row for each input set, width and seed that has both. Columns `before`, `after`,
        `ratio`; `capped`, the rank before is at its bound, so that no rise is possible; `censored`,
        both are; `dead`, a hidden layer is silent on a whole sample, in either network. Counts of
        singular values have no bound: they are neither capped nor censored.

    >>> runs = pd.DataFrame({"inputs": "test", "width": 5, "seed": [0, 0, 1, 1],
    ...                      "epoch": [0, 9, 0, 9], "dead": False,
    ...                      "exact": [20, 30, 45, 45], "bound": 45})
    >>> pairs(runs, "epoch", 0, 9)[["ratio", "capped", "censored"]].values.tolist()
    [[1.5, False, False], [1.0, True, True]]
    """
    runs = table[table[column].isin([before, after])].dropna(subset=[rank])
    runs = runs.set_index(["inputs", "width", "seed"])
    begin, end = (runs[runs[column] == value] for value in (before, after))
    both = begin.index.intersection(end.index)
    begin, end = begin.loc[both], end.loc[both]
    capped = (begin.exact == begin.bound) & (rank == "exact")
    silent = runs[runs.dead].index.droplevel("inputs")  # on one of its samples: left out on all
    found = pd.DataFrame({
        "before": begin[rank],
        "after": end[rank],
        "ratio": end[rank] / begin[rank],
        "capped": capped,
        "censored": capped & (end.exact == end.bound),
        "dead": both.droplevel("inputs").isin(silent),
    })
    return found.sort_index(ascending=[False, True, True])  # train, test, gaussian


def evidence(pairs: pd.DataFrame, sign: int) -> pd.DataFrame:
    """The pairs that can speak about a rise (sign 1) or a fall (−1): see the rule above."""
    living = pairs[~pairs.dead]
    return living[~living.capped] if sign > 0 else living


def verdict(pairs: pd.DataFrame, sign: int) -> Verdict:
    """Whether a claim holds for some networks: that the rank rises (sign 1) or falls (−1)."""
    counted = evidence(pairs, sign)
    claimed = (counted.ratio - 1) * sign > 0
    capped = pairs.capped & ~pairs.dead
    return Verdict(
        _word(claimed, counted.censored),
        claimed=int(claimed.sum()),
        counted=len(counted),
        censored=int(counted.censored.sum()),
        capped=int(capped.sum()) if sign > 0 else 0,
        dead=int(pairs.dead.sum()),
    )


def _word(claimed: pd.Series, censored: pd.Series) -> str:
    """For the pairs that count: which moved in the claimed direction, which are censored."""
    if not len(claimed):
        return "no pair can tell"
    if censored.all():
        return "no fall seen"
    if claimed.all():
        return "holds"
    return "mixed" if claimed.any() else "fails"


def readings(table: pd.DataFrame, column: str, before: float, after: float) -> pd.DataFrame:
    """The ratios by every rank side by side, a column each.

    For the living networks whose singular values were counted.
    """
    counted = table.dropna(subset="svd_seconds")
    found = {label: pairs(counted, column, before, after, rank) for rank, label in RANKS.items()}
    return pd.DataFrame({label: pair.ratio[~pair.dead] for label, pair in found.items()})


def placebo(table: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """What training on nudged pixels, and nothing else, does to the rank at an epoch.

    Args:
        table: that of the experiment "placebo".

    Returns:
        As `pairs`, without and with the nudge; inputs are "train" and "test", the digits themselves
        and never the nudged ones.
    """
    at = table[table.epoch == epoch].replace({"inputs": {"clean": "train"}})
    return pairs(at, "noise", 0.0, NUDGE)


def sides(ratio: pd.Series) -> str:
    """In how many networks the rank rose, fell and stayed: "5 / 0 / 1"."""
    return f"{(ratio > 1).sum()} / {(ratio < 1).sum()} / {(ratio == 1).sum()}"


def plateau(table: pd.DataFrame) -> int | None:
    """The least width from which on every rank is the sample bound.

    None if the largest width has one below it.
    """
    full = (table.exact == table.sample_bound).groupby(table.width).all()[::-1].cummin()[::-1]
    return full.index[full].min() if full.any() else None
