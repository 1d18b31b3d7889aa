"""Where P − rank goes, for tables and figures: the terms of `explanation` in groups.

Rows are networks, with the columns of the table "explanation" (never_active_1, blind_spots_1, …)
and, where a rank is at hand, `rank` and `unexplained`.
"""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fdimlib.companion.spikes import Spike, spikes
from fdimlib.explanation import Explanation

GROUPS = {
    "rank": ("rank",),
    "unexplained": ("unexplained",),
    "sample too small": ("sample_too_small",),
    "active together": ("active_together",),
    "blind spots, layers 2 to 4": ("blind_spots_2", "blind_spots_3", "blind_spots_4"),
    "blind spots, layer 1": ("blind_spots_1",),
    "never active": ("never_active_1", "never_active_2", "never_active_3"),
    "rescalings, softmax": ("rescalings_1", "rescalings_2", "rescalings_3", "softmax_shift_4"),
}
"""From the rank up to P."""

MOVING = ("blind spots, layer 1", "blind spots, layers 2 to 4", "never active")
"""The groups that training moves."""

HATCHES = ("", "//", "..", "xx", r"\\", "", "++", "")
HUES = (None, 1, 7, 9, 8, 0, 3, 4)  # of the colour-blind palette; the rank is dark grey


def row(why: Explanation) -> dict[str, int]:
    """An explanation as a row of these tables."""
    named = {}
    for term, layer, count in why.rows:
        name = f"{term} {layer}".removesuffix(" 0").replace(" ", "_").replace("'", "")
        named[name] = abs(count)
    return named


def grouped(terms: pd.DataFrame) -> pd.DataFrame:
    """One column a group; they add up to P.

    >>> whole = pd.DataFrame({"rank": [5], "unexplained": [0], "blind_spots_1": [3]})
    >>> grouped(whole)[["rank", "blind spots, layer 1"]].values.tolist()
    [[5, 3]]
    """
    return pd.DataFrame({group: terms[[name for name in names if name in terms]].sum(axis=1)
                         for group, names in GROUPS.items()}, index=terms.index).astype(int)


def stack(ax: Axes, terms: pd.DataFrame) -> None:
    """A stacked bar for each row, named by the index; the rank at the bottom, P at the top."""
    palette, parts = sns.color_palette("colorblind"), grouped(terms)
    bottom = pd.Series(0, index=parts.index)
    for (group, values), hatch, hue in zip(parts.items(), HATCHES, HUES):
        ax.bar(range(len(parts)), values, 0.86, bottom, label=group, lw=0.4, edgecolor="white",
               hatch=hatch, color="0.25" if hue is None else palette[hue])
        bottom = bottom + values
    ax.set_xticks(range(len(parts)), parts.index, fontsize="x-small", rotation=60)
    ax.margins(x=0.01)


def taken(before: pd.Series, after: pd.Series) -> dict[str, int]:
    """What each moving group has taken from one network to another; less than 0: given back."""
    return {group: int(sum(after[name] - before[name] for name in GROUPS[group]))
            for group in MOVING}


def intervals(table: pd.DataFrame, run: list[str]) -> pd.DataFrame:
    """The changes between neighbouring epochs of each run.

    Args:
        table: with `epoch`, `rank`, `explained`, `parameters` and units_alive_1 to 3.
        run: the columns that name a run.

    Returns:
        One row an interval, `from` … `epoch`: the changes of `rank`, `explained`, `units` (that are
        ever active) and each moving group; `rank_before`.
    """
    table = table.sort_values("epoch").reset_index(drop=True)
    alive = table[["units_alive_1", "units_alive_2", "units_alive_3"]].sum(axis=1)
    table = table.join(grouped(table)[list(MOVING)]).assign(units=alive)
    by_run = table.groupby(run)
    steps = by_run[["rank", "explained", "units", *MOVING]].diff()
    steps["from"], steps["rank_before"] = by_run.epoch.shift(), by_run["rank"].shift()
    return table[[*run, "epoch", "parameters"]].join(steps).dropna(subset="from")


def along(rows: pd.DataFrame, losses: Sequence[float], start: int, end: int) -> dict[str, object]:
    """What happened to a run between two epochs: to its rank, its terms, its units, its loss.

    Args:
        rows: of one run, by epoch; with rank, loss and accuracy.
        losses: of the epochs 1, 2, …
    """
    early, late, found = rows.loc[start], rows.loc[end], spikes(losses)
    alive = [sum(one[f"units_alive_{layer}"] for layer in (1, 2, 3)) for one in (early, late)]
    return {
        "rank gained": int(late["rank"] - early["rank"]), **taken(early, late),
        "unexplained": int(late.unexplained - early.unexplained), "units": alive[1] - alive[0],
        "active, layer 1": f"{early.active_share_1:.2f} → {late.active_share_1:.2f}",
        "patterns": round(late.patterns / early.patterns, 2), "last loss": f"{late.loss:.1g}",
        "labels fitted": f"{late.accuracy:.2%}", "spikes": len(found),
        "lasting": sum(spike.lasting for spike in found),
    }


def around(rows: pd.DataFrame, spike: Spike) -> dict[str, object] | None:
    """The ranks around a spike, and what it cost; None where some are not recorded.

    Args:
        rows: of one run, by epoch, to its last one.
    """
    when = spike.epochs(rows.index.max())
    if not set(when.values()) <= set(rows.index):
        return None
    before, after = rows.loc[when["before"]], rows.loc[when["after"]]
    return {
        "from": spike.begin, "to": spike.end, "lasting": "yes" if spike.lasting else "no",
        **{moment: int(rows.loc[epoch]["rank"]) for moment, epoch in when.items()},
        "after / before": round(after["rank"] / before["rank"], 3),
        "lost": int(before["rank"] - after["rank"]), **taken(before, after),
    }
