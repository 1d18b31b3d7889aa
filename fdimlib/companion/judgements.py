"""The rules by which claims are judged: what a table says of a claim, width by width.

`effects` has the rule for directions: a rank rises or falls with a change. Three claims of the
authors' are about something else, and have small rules of their own here: how close a rank is to
the number of parameters (`Close`), the shape of a curve over the width (`Plateau`), and two kinds
of inputs of one network (`Support`). A rule is a dataclass: its fields stand in claims.json.

They were written when the tables of the released setting were known, and those of the larger one
had their first rows, of width 30.

A width is judged once all its planned networks are measured: a verdict on the first few to arrive
could turn with the next. Until then it is "not yet measured", with the counts.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import pandas as pd

from fdimlib.companion import effects

CLOSE = 0.95
"""Close to the number of parameters: at least this share of P. At the released setting no network
on a growing sample has a share between 0.89 and 0.97, so that limits between those say the same."""

LEVEL = 0.01
"""A curve is level where its median changes by at most this share from a width to the next."""

EVERY_WIDTH = "all widths"
"""The key of a verdict on a whole curve."""


class Rule(Protocol):
    """What `found` asks of a rule."""

    rows_each: ClassVar[int]  # rows that make a network measured
    by_width: ClassVar[bool]  # or one verdict on all widths

    @property
    def inputs(self) -> str:
        """The kind of inputs that the ranks are on."""

    def needed(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that the rule looks at, of a table or of a plan."""

    def verdicts(self, table: pd.DataFrame) -> dict[str, str]:
        """Width → verdict."""


def found(rule: Rule, table: pd.DataFrame, plan: pd.DataFrame) -> dict[str, str]:
    """The verdict at every width that the plan has networks for, narrow ones first.

    Args:
        table: as `sweeps.results` gives it.
        plan: the fields of all points that the table is to have, a row each.

    Returns:
        Width, or `EVERY_WIDTH`, → verdict: a word, and its counts in parentheses. Empty where the
        plan has no network that the rule could judge.
    """
    wanted = rule.needed(plan).value_counts(["width", "seed"]).sort_index()
    wanted = wanted[wanted >= rule.rows_each]
    there = rule.needed(table).value_counts(["width", "seed"])
    measured = there.reindex(wanted.index, fill_value=0) >= rule.rows_each
    group = measured.index.get_level_values("width").map(str)
    done = measured.groupby(group if rule.by_width else [EVERY_WIDTH] * len(group), sort=False)
    networks = pd.MultiIndex.from_frame(table[["width", "seed"]])
    kept = table[networks.isin(measured.index[measured])]
    judged = rule.verdicts(kept) if len(kept) else {}
    return {key: judged[key] if counts.all() else
            f"not yet measured ({counts.sum()} of {len(counts)} networks)"
            for key, counts in done}


def _at(rows: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return rows


@dataclass(frozen=True)
class Direction:
    """The rank rises (sign 1) or falls (−1) with a change: the rule of `effects`.

    Attributes:
        column, before, after: the change.
        inputs: on which the rank is.
        where: columns and the values at which the rest is held, e.g. the epoch.
        claimed_from: the least width that the claim is made for. Below it a verdict says how many
            networks moved as claimed and begins with "not claimed": nothing can fail there.
    """

    column: str
    before: float
    after: float
    sign: int
    inputs: str
    where: dict[str, Any] = field(default_factory=dict)
    claimed_from: int = 0

    rows_each: ClassVar[int] = 2
    by_width: ClassVar[bool] = True

    def needed(self, rows: pd.DataFrame) -> pd.DataFrame:
        rows = _at(self.held(rows), inputs=self.inputs)
        return rows[rows[self.column].isin([self.before, self.after])]

    def held(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Those where the rest is held at its values, on all kinds of inputs."""
        return _at(rows, **self.where)

    def pairs(self, table: pd.DataFrame, rank: str = "exact") -> pd.DataFrame:
        """The networks before and after the change, see `effects.pairs`.

        One that is dead on other inputs is marked as dead here too.
        """
        held = self.held(table)
        pairs = effects.pairs(held, self.column, self.before, self.after, rank)
        return pairs[pairs.index.get_level_values("inputs") == self.inputs]

    def verdicts(self, table: pd.DataFrame) -> dict[str, str]:
        return {str(width): self._told(width, effects.verdict(group, self.sign))
                for width, group in self.pairs(table).groupby("width")}

    def _told(self, width: int, verdict: effects.Verdict) -> str:
        if width >= self.claimed_from or not verdict.counted:
            return str(verdict)
        moved = "rise" if self.sign > 0 else "fall"
        return f"not claimed ({verdict.claimed} of {verdict.counted} {moved})"


@dataclass(frozen=True)
class Close:
    """On a large Gaussian sample the rank often remains close to the number of parameters.

    The claim "holds" where more than half of the living networks are close, see `CLOSE`: it says
    "often". On a sample that grew until its rank stood still it "fails" where none is, and is
    "mixed" between. On a sample of one size a rank is a mere lower bound of what larger ones give:
    there "not reached" is all that can be said, and where its sample bound alone keeps the rank
    from being close, "no network can tell".
    """

    inputs: str
    epoch: int

    rows_each: ClassVar[int] = 1
    by_width: ClassVar[bool] = True

    def needed(self, rows: pd.DataFrame) -> pd.DataFrame:
        return _at(rows, inputs=self.inputs, epoch=self.epoch)

    def verdicts(self, table: pd.DataFrame) -> dict[str, str]:
        rows = self.needed(table)
        room = rows.sample_bound >= CLOSE * rows.parameters
        shares = (rows.exact / rows.parameters)[room & ~rows.dead]
        return {str(width): self._told(shares[rows.width == width])
                for width in sorted(rows.width.unique())}

    def _told(self, shares: pd.Series) -> str:
        if not len(shares):
            return "no network can tell"
        close = (shares >= CLOSE).sum()
        least = math.floor(1000 * shares.min()) / 1000
        return f"{self._word(close, len(shares))} ({close} of {len(shares)}, least {least:.3f} P)"

    def _word(self, close: int, networks: int) -> str:
        if 2 * close > networks:
            return "holds"
        if self.inputs != "growing":
            return "not reached"
        return "mixed" if close else "fails"


@dataclass(frozen=True)
class Plateau:
    """As the width grows the rank first increases, then becomes stable.

    Over the medians of the living networks: the claim "holds" where they rise from every width to
    the next, up to one from which on they are level, see `LEVEL`. Where they rise to the last width
    there is "no plateau seen", which wider networks may have; it "fails" where none rises, and is
    "mixed" otherwise. Where every rank of the plateau is the sample bound, the sample ends the
    growth, whatever the networks do; the verdict says from which width on that is so.
    """

    inputs: str
    epoch: int

    rows_each: ClassVar[int] = 1
    by_width: ClassVar[bool] = False

    def needed(self, rows: pd.DataFrame) -> pd.DataFrame:
        return _at(rows, inputs=self.inputs, epoch=self.epoch)

    def verdicts(self, table: pd.DataFrame) -> dict[str, str]:
        rows = self.needed(table)
        if rows.width.nunique() < 2:
            return {EVERY_WIDTH: "no network can tell"}
        counts = steps(rows)
        medians = rows[~rows.dead].groupby("width").exact.median()
        change = medians.pct_change().iloc[1:]
        moving = change.abs() > LEVEL
        growth = change[moving[::-1].cummax()[::-1]]  # up to the last step that is not level
        start = growth.index[-1] if len(growth) else medians.index[0]
        parts = [f"{counts.up} steps up, {counts.down} down, {counts.at_the_bound} level at the "
                 f"sample bound, {counts.below} level below it"]
        level = start < medians.index[-1]
        if level:
            parts.append(f"level from w = {start} on")
        if full := effects.plateau(rows):
            parts.append(f"every rank is the sample bound from w = {full} on")
        return {EVERY_WIDTH: f"{_shape(growth, level)} ({'; '.join(parts)})"}


def _shape(growth: pd.Series, level: bool) -> str:
    """Of a curve: its steps before the plateau, and whether there is one."""
    if not (growth > 0).any():
        return "fails"
    if not (growth > 0).all():
        return "mixed"
    return "holds" if level else "no plateau seen"


def steps(rows: pd.DataFrame) -> pd.Series:
    """Network by network, the steps from one width to the next: how many go where.

    Args:
        rows: one network each, on one kind of inputs and at one epoch; dead ones are left out.

    Returns:
        `all`, `up`, `down`; the level ones are either `at_the_bound`, between two ranks at the
        sample bound, or `below`.
    """
    living = rows[~rows.dead]
    ranks = living.pivot(index="width", columns="seed", values="exact")
    change = ranks.diff().iloc[1:].stack().dropna()
    full = living.assign(full=living.exact == living.sample_bound)
    full = full.set_index(["width", "seed"]).full.reindex(change.index)
    level = change == 0
    return pd.Series({"all": len(change), "up": (change > 0).sum(), "down": (change < 0).sum(),
                      "at_the_bound": (level & full).sum(), "below": (level & ~full).sum()})


@dataclass(frozen=True)
class Support:
    """On the support of the inputs the rank is smaller than on the whole space.

    Each network on test digits against as many Gaussian inputs: the rule of `effects` for a fall
    from these to those. Where the Gaussian rank is at the *sample* bound, the sample holds the
    larger side back, and with it the gap: such a network is left out. Where it is at what the
    parameters leave, nothing larger exists: it counts, and the digits can be smaller or not.
    """

    epoch: int

    inputs: ClassVar[str] = "both"
    rows_each: ClassVar[int] = 2
    by_width: ClassVar[bool] = True

    def needed(self, rows: pd.DataFrame) -> pd.DataFrame:
        rows = _at(rows, epoch=self.epoch)
        return rows[rows.inputs.isin(["gaussian", "test"])]

    def networks(self, table: pd.DataFrame) -> pd.DataFrame:
        """One row for each width and seed that has both ranks.

        Columns `digits`, `gaussian`, `ratio`; `of_P_digits` and `of_P_gaussian`, shares of the
        number of parameters; `limit_digits` and `limit_gaussian`, the bound that the rank is at:
        "sample", "parameters" or "none"; `dead`, silent in a hidden layer on any kind of inputs.
        """
        rows = self.needed(table)
        both = effects.pairs(rows.assign(kind=rows.inputs, inputs="either"), "kind", "gaussian",
                             "test").droplevel("inputs")
        limits = rows.assign(limit=_limit(rows)).pivot(
            index=["width", "seed"], columns="inputs", values="limit").reindex(
                both.index, columns=["test", "gaussian"])
        sizes = rows.groupby(["width", "seed"]).parameters.first().reindex(both.index)
        dead = _at(table, epoch=self.epoch).groupby(["width", "seed"]).dead.any()
        return pd.DataFrame({
            "digits": both.after, "gaussian": both.before, "ratio": both.ratio,
            "of_P_digits": both.after / sizes, "of_P_gaussian": both.before / sizes,
            "limit_digits": limits.test, "limit_gaussian": limits.gaussian,
            "dead": dead.reindex(both.index), "capped": both.capped, "censored": both.censored})

    def verdicts(self, table: pd.DataFrame) -> dict[str, str]:
        networks = self.networks(table)
        return {str(width): str(effects.verdict(group[group.limit_gaussian != "sample"], -1))
                for width, group in networks.groupby("width")}


def _limit(rows: pd.DataFrame) -> pd.Series:
    """The bound that a rank is at."""
    limit = pd.Series("none", rows.index).mask(rows.exact == rows.parameter_bound, "parameters")
    return limit.mask(rows.exact == rows.sample_bound, "sample")


RULES: dict[str, type[Any]] = {
    "direction": Direction, "close": Close, "plateau": Plateau, "support": Support,
}
