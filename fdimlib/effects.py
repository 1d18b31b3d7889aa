"""What a change does to the rank, network by network, and the verdict on a claim about it: one rule for every experiment.

A change is an experiment's column with a value before and one after: epochs, noise, random labels. Networks of one width
and seed are compared with each other, so nothing but the change, and what it led to, can make a difference.
"""

import pandas as pd

RANKS = {
    "svd_float32_softmax": "float32, softmax (released default)", "svd_float32_logits": "float32, logits",
    "exact": "exact, softmax", "svd_float64_softmax": "float64, softmax", "svd_float64_logits": "float64, logits",
}
"""Columns of a table of `sweeps.results` that hold a rank, and how to call them."""


def pairs(table: pd.DataFrame, column: str, before, after, rank: str = "exact") -> pd.DataFrame:
    """The ratio of the ranks after and before a change, one row for each input set, width and seed that has both.

    Args:
        table: as `sweeps.results` gives it.
        column: what changes, from `before` to `after`; all else that varies must be in the index of the result.
        rank: a key of `RANKS`.

    Returns:
        Columns `ratio`; `forced`, whether both ranks are the sample bound n(N_L − 1), so that an exact ratio can be nothing
        but 1 (counts of singular values still move); `dead`, whether a hidden layer is silent on a whole sample, in either
        network: its rank is N_L − 1 for that reason and says nothing of learning.

    >>> runs = pd.DataFrame({"inputs": "test", "width": 5, "seed": [0, 0, 1, 1], "epoch": [0, 9, 0, 9], "dead": False,
    ...                      "exact": [20, 30, 45, 45], "sample_bound": 45})
    >>> pairs(runs, "epoch", 0, 9)[["ratio", "forced"]].values.tolist()
    [[1.5, False], [1.0, True]]
    """
    runs = table[table[column].isin([before, after])].dropna(subset=[rank]).set_index(["inputs", "width", "seed"])
    begin, end = (runs[runs[column] == value] for value in (before, after))
    both = begin.index.intersection(end.index)
    begin, end = begin.loc[both], end.loc[both]
    forced = (begin.exact == begin.sample_bound) & (end.exact == end.sample_bound) & (rank == "exact")
    silent = runs[runs.dead].index.droplevel("inputs")  # on one of its samples: left out on all
    found = pd.DataFrame({"ratio": end[rank] / begin[rank], "forced": forced, "dead": both.droplevel("inputs").isin(silent)})
    return found.sort_index(ascending=[False, True, True])  # train, test, gaussian


def free(pairs: pd.DataFrame) -> pd.Series:
    """The ratios that can tell something: neither forced nor of dead networks."""
    return pairs.ratio[~(pairs.forced | pairs.dead)]


def verdict(pairs: pd.DataFrame, sign: int) -> str:
    """Whether a claim holds for some networks: that the rank rises (sign 1) or falls (−1).

    Returns:
        "holds" if every free ratio is on the claimed side of 1, "fails" if none is, "mixed" if some are; "not visible" if
        none is free because the sample bound forced them, "all dead" if only dead networks are left.
    """
    ratio = free(pairs)
    if ratio.empty:
        return "not visible" if pairs.forced.any() else "all dead"
    claimed = (ratio - 1) * sign > 0
    return "holds" if claimed.all() else "mixed" if claimed.any() else "fails"


def readings(table: pd.DataFrame, column: str, before, after) -> pd.DataFrame:
    """The ratios by every rank side by side, for the living networks whose singular values were counted: a column each."""
    counted = table.dropna(subset="svd_seconds")
    found = {label: pairs(counted, column, before, after, rank) for rank, label in RANKS.items()}
    return pd.DataFrame({label: pair.ratio[~pair.dead] for label, pair in found.items()})


def sides(ratio: pd.Series) -> str:
    """In how many networks the rank rose, fell and stayed: "5 / 0 / 1"."""
    return f"{(ratio > 1).sum()} / {(ratio < 1).sum()} / {(ratio == 1).sum()}"


def plateau(table: pd.DataFrame) -> int | None:
    """The least width from which on every rank is the sample bound; None if the largest width has one below it."""
    full = (table.exact == table.sample_bound).groupby(table.width).all()[::-1].cummin()[::-1]
    return full.index[full].min() if full.any() else None
