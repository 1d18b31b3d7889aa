"""The claims of the paper as data, and their verdicts, computed anew from the committed tables.

claims.json holds each claim in the authors' words, and how it is judged: the rules of `judgements`,
a table, and the *recorded verdict* for each setting, width by width. To meet it is "as recorded",
whatever the verdict; another one says that the tables and what is told of them have parted.
`python -m fdimlib claims` compares, notebook 15 and the README's table of findings are made of it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from fdimlib.companion import REPOSITORY, claims_file
from fdimlib.companion.claims_file import INPUTS, known, load, rule_of, settings, written
from fdimlib.companion.experiments import experiments
from fdimlib.companion.judgements import Rule, found

THEORY = "any network"
"""The setting of the theorems."""

Read = Callable[[str, str], pd.DataFrame | None]


@dataclass(frozen=True)
class Judgement:
    """One reading of a claim at one setting: what is recorded, and what the tables say now.

    Attributes:
        id: "labels/ends/test": the claim, the change, the inputs; the same at every setting.
        claim: the claim's id.
        setting: that of `Setting`, or `THEORY`.
        notebook: where it is looked at closely.
        change, inputs: what is compared, in words.
        authors: whether it is the authors' claim, or a question of ours beside it.
        headline: whether it stands in the table of the README.
        table, rule: what it is judged by; none for a theorem.
        recorded, found: width → verdict; `judgements.EVERY_WIDTH` where it is about a curve.
    """

    id: str
    claim: str
    setting: str
    notebook: str
    change: str
    inputs: str
    authors: bool
    headline: bool
    table: str | None
    rule: Rule | None
    recorded: dict[str, str]
    found: dict[str, str]

    @property
    def same(self) -> bool:
        return self.recorded == self.found

    @property
    def changes(self) -> list[str]:
        """Where the two differ: "w = 10: recorded fails (0 of 5), found mixed (1 of 5)"."""
        return [f"{f'w = {key}' if key.isdecimal() else key}: recorded "
                f"{self.recorded.get(key, 'nothing')}, found {self.found.get(key, 'nothing')}"
                for key in {**self.recorded, **self.found}
                if self.recorded.get(key) != self.found.get(key)]


def claim(id: str) -> dict[str, Any]:
    """A claim of the file by its id: its number, title, statement, source and what decides.

    >>> claim("labels")["number"]
    4
    """
    known("id", id, [entry["id"] for entry in load()["claims"]])
    return next(entry for entry in load()["claims"] if entry["id"] == id)


def judge(*ids: str, read: Read | None = None) -> list[Judgement]:
    """Every reading of every claim, or of those named, judged anew.

    Args:
        ids: of claims or theorems; all when none is given.
        read: the table of an experiment at a preset, None where there is none; by default the
            committed ones.

    Raises:
        ValueError: an id or a field that does not exist, or a table that cannot be read.
        FileNotFoundError: there are no committed tables here.
    """
    entries = load()
    everything = [entry["id"] for part in ("theorems", "claims") for entry in entries[part]]
    for id in ids:
        known("id", id, everything)
    wanted, read = ids or everything, cache(read or committed)
    plans = {id: _plans(setting.preset) for id, setting in settings().items()}
    judged = [_theorem(entry) for entry in entries["theorems"] if entry["id"] in wanted]
    for entry in entries["claims"]:
        if entry["id"] in wanted:
            for reading in entry["judgements"]:
                judged += _at_every_setting(entry["id"], reading, read, plans)
    return judged


def committed(name: str, preset: str) -> pd.DataFrame | None:
    """The committed table of an experiment; None where nothing of it was published.

    Raises:
        FileNotFoundError: this is no clone with tables.
    """
    folder = REPOSITORY / "figures" / "data"
    if not folder.is_dir():
        raise FileNotFoundError(f"no tables in {folder}; run this from a clone of the repository, "
                                "installed with `make` or pip -e")
    path = folder / f"{name}_{preset}.csv"
    return pd.read_csv(path) if path.exists() else None


def record() -> list[Judgement]:
    """Write the verdicts that the committed tables give into claims.json.

    A theorem has none: the checks of its notebook must hold, and that is all that can be recorded.

    Returns:
        Those that were another before.
    """
    changed = [judgement for judgement in judge(*(entry["id"] for entry in load()["claims"]))
               if not judgement.same]
    book = json.loads(claims_file.FILE.read_text(encoding="utf-8"))
    readings = {f"{entry['id']}/{reading['id']}": reading
                for entry in book["claims"] for reading in entry["judgements"]}
    for judgement in changed:
        recorded = readings[judgement.id]["recorded"]
        recorded.pop(judgement.setting, None)
        if judgement.found:
            recorded[judgement.setting] = judgement.found
    if changed:
        claims_file.FILE.write_text(written(book), encoding="utf-8")
        load.cache_clear()
    return changed


def _plans(preset: str) -> dict[str, pd.DataFrame]:
    """The networks that each table is to have, as `judgements.found` wants them."""
    return {name: pd.DataFrame([point.fields for point in points if point.method == "exact"])
            for name, points in experiments(preset).items()}


def _verdicts(rule: Rule, plan: pd.DataFrame, table: pd.DataFrame | None) -> dict[str, str]:
    return found(rule, plan.iloc[:0] if table is None else table, plan)


def _at_every_setting(
    claim: str, reading: dict[str, Any], read: Read, plans: dict[str, dict[str, pd.DataFrame]],
) -> Iterator[Judgement]:
    """A judgement for every setting that has networks for it, or a recorded verdict."""
    for setting in settings().values():
        id, name = f"{claim}/{reading['id']}", reading["table"]
        rule, plan = rule_of(reading["rule"], setting.numbers["last"]), plans[setting.id][name]
        recorded = reading["recorded"].get(setting.id, {})
        try:
            verdicts = _verdicts(rule, plan, read(name, setting.preset)) if len(plan) else {}
        except KeyError as problem:
            raise ValueError(f"{id}: table {name}_{setting.preset}: has no column or value "
                             f"{problem}") from None
        if verdicts or recorded:
            yield Judgement(
                id, claim, setting.id, reading["notebook"],
                reading["change"].format(**setting.numbers),
                INPUTS[rule.inputs].format(**setting.numbers),
                reading["authors"], reading["headline"], name, rule, recorded, verdicts)


def _theorem(entry: dict[str, Any]) -> Judgement:
    """Proved statements have checks in place of verdicts: those of a notebook, as committed."""
    path = REPOSITORY / "notebooks" / f"{entry['notebook']}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    counts = [output["metadata"]["fdimlib"] for output in outputs
              if "fdimlib" in output.get("metadata", {})]
    held, of = (sum(count[name] for count in counts) for name in ("held", "of"))
    verdict = "all hold" if held == of and of else f"{held} of {of} hold"
    return Judgement(entry["id"], entry["id"], THEORY, entry["notebook"], "", "", True, False,
                     None, None, entry["recorded"], {"checks": verdict})
