"""The claims of the paper as data, and their verdicts, computed anew from the committed tables.

claims.json holds each claim in the authors' words, and how it is judged: the rules of `judgements`,
a table, and the *recorded verdict* for each setting, width by width. To meet it is "as recorded",
whatever the verdict; another one says that the tables and what is told of them have parted.
`python -m fdimlib claims` compares, notebook 15 and the README's table of findings are made of it.

A field of the file that may differ between settings is written once: "last" is the last epoch of
the setting's preset, and {last}, {n_train} and {n_test} stand for its numbers in what is told.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from fdimlib.companion import REPOSITORY
from fdimlib.companion.experiments import PRESETS, TABLES, Preset, experiments
from fdimlib.companion.judgements import RULES, Rule, found

FILE = Path(__file__).with_name("claims.json")
THEORY = "any network"
"""The setting of the theorems."""

INPUTS = {
    "train": "training digits", "test": "test digits", "gaussian": "{n_test:,} Gaussian inputs",
    "growing": "growing Gaussian samples",
    "both": "test digits against Gaussian inputs, {n_test:,} each",
}
"""Kinds of inputs, in words."""

FIELDS = {
    "the file": ("settings", "theorems", "claims"),
    "setting": ("id", "preset", "title"),
    "theorem": ("id", "statement", "source", "verdict", "notebook", "recorded"),
    "claim": ("id", "number", "title", "statement", "source", "between", "judgements"),
    "judgement": ("id", "change", "authors", "headline", "notebook", "table", "rule", "recorded"),
}
"""What each part of the file has: all of these, and a rule's own fields inside "rule"."""

Read = Callable[[str, str], pd.DataFrame | None]


@dataclass(frozen=True)
class Setting:
    """A size of the experiments: an id, the preset that has it, and a title."""

    id: str
    preset: str
    title: str

    @property
    def numbers(self) -> dict[str, int]:
        sizes: Preset = PRESETS[self.preset]
        return {"last": sizes.checkpoints[-1], "n_train": sizes.n_train, "n_test": sizes.n_test}


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


def settings() -> dict[str, Setting]:
    """The settings that claims are judged at, by id."""
    return {entry["id"]: Setting(**entry) for entry in load()["settings"]}


def claim(id: str) -> dict[str, Any]:
    """A claim of the file by its id: its number, title, statement, source and what decides.

    >>> claim("labels")["number"]
    4
    """
    _known("id", id, [entry["id"] for entry in load()["claims"]])
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
        _known("id", id, everything)
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

    Returns:
        Those that were another before.
    """
    changed = [judgement for judgement in judge() if not judgement.same]
    book = json.loads(FILE.read_text(encoding="utf-8"))
    entries = {entry["id"]: entry for entry in book["theorems"]} | {
        f"{entry['id']}/{reading['id']}": reading
        for entry in book["claims"] for reading in entry["judgements"]}
    for judgement in changed:
        recorded = entries[judgement.id]["recorded"]
        recorded.pop(judgement.setting, None)
        if judgement.found:
            recorded[judgement.setting] = judgement.found
    if changed:
        FILE.write_text(written(book), encoding="utf-8")
        load.cache_clear()
    return changed


def written(book: dict[str, Any]) -> str:
    """The text of the file: a line for each verdict, so that a change can be seen."""
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


@cache
def load() -> dict[str, Any]:
    """What claims.json says, its fields checked.

    Raises:
        ValueError: it has a field that is not known, lacks one, or names what does not exist.
    """
    book: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    check(book)
    return book


def check(book: dict[str, Any]) -> None:
    """That every field and every name in it is one that exists; see `load`."""
    _fields("the file", "claims.json", book)
    for entry in book["settings"]:
        _fields("setting", entry.get("id"), entry)
        _known(f"{entry['id']}: preset", entry["preset"], PRESETS)
    known = [entry["id"] for entry in book["settings"]]
    for entry in book["theorems"]:
        _fields("theorem", entry.get("id"), entry)
    for entry in book["claims"]:
        _fields("claim", entry.get("id"), entry)
        for reading in entry["judgements"]:
            id = f"{entry['id']}/{reading.get('id')}"
            _fields("judgement", id, reading)
            _known(f"{id}: table", reading["table"], TABLES)
            _check_rule(id, reading["rule"])
            for setting in reading["recorded"]:
                _known(f"{id}: recorded", setting, known)


def _fields(part: str, id: str | None, entry: dict[str, Any]) -> None:
    for name in entry:
        _known(f"{part} {id}: field", name, FIELDS[part])
    if missing := set(FIELDS[part]) - set(entry):
        raise ValueError(f"{part} {id}: lacks {', '.join(sorted(missing))}")


def _check_rule(id: str, rule: dict[str, Any]) -> None:
    _known(f"{id}: rule", rule.get("is"), RULES)
    _known(f"{id}: inputs", rule.get("inputs", "both"), INPUTS)
    names = [field.name for field in fields(RULES[rule["is"]])]
    for name in rule:
        _known(f"{id}: field of the rule {rule['is']!r}", name, ["is", *names])
    try:
        _rule(rule, 0)
    except TypeError as problem:  # says which argument is missing
        raise ValueError(f"{id}: rule {rule['is']!r}: {problem}") from None


def _known(what: str, name: object, names: Any) -> None:
    if name not in names:
        raise ValueError(f"{what}: found {name!r}; choose among {', '.join(names)}")


def _rule(entry: dict[str, Any], last: int) -> Rule:
    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: number(inner) for name, inner in value.items()}
        return last if value == "last" else value

    rule: Rule = RULES[entry["is"]](**{k: number(v) for k, v in entry.items() if k != "is"})
    return rule


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
        rule, plan = _rule(reading["rule"], setting.numbers["last"]), plans[setting.id][name]
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
