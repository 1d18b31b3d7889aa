"""The file of the claims: claims.json, read and checked.

It holds each claim in the authors' words, how it is judged, and the recorded verdicts. What may
differ between settings is written once: "last" is the last epoch of the setting's preset, and in
what is told {last}, {n_train} and {n_test} stand for its numbers.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from fdimlib.companion.experiments import PRESETS, TABLES, Preset
from fdimlib.companion.judgements import RULES, Rule

FILE = Path(__file__).with_name("claims.json")

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


def settings() -> dict[str, Setting]:
    """The settings that claims are judged at, by id."""
    return {entry["id"]: Setting(**entry) for entry in load()["settings"]}


def written(book: dict[str, Any]) -> str:
    """The text of the file: a line for each verdict, so that a change can be seen."""
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


@cache
def load() -> dict[str, Any]:
    """What claims.json says, its fields checked.

    Raises:
        ValueError: it has a field that is not known, lacks one, or names what does not exist.
    """
    try:
        book: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise ValueError(f"{FILE.name}: {problem}") from None
    check(book)
    return book


def check(book: dict[str, Any]) -> None:
    """That every field and every name in it is one that exists; see `load`."""
    _fields("the file", "claims.json", book)
    for entry in book["settings"]:
        _fields("setting", entry.get("id"), entry)
        known(f"{entry['id']}: preset", entry["preset"], PRESETS)
    names = [entry["id"] for entry in book["settings"]]
    for entry in book["theorems"]:
        _fields("theorem", entry.get("id"), entry)
    for entry in book["claims"]:
        _fields("claim", entry.get("id"), entry)
        for reading in entry["judgements"]:
            id = f"{entry['id']}/{reading.get('id')}"
            _fields("judgement", id, reading)
            known(f"{id}: table", reading["table"], TABLES)
            _check_rule(id, reading["rule"])
            _check_words(id, reading["change"])
            for setting in reading["recorded"]:
                known(f"{id}: recorded", setting, names)


def _fields(part: str, id: str | None, entry: dict[str, Any]) -> None:
    for name in entry:
        known(f"{part} {id}: field", name, FIELDS[part])
    if missing := set(FIELDS[part]) - set(entry):
        raise ValueError(f"{part} {id}: lacks {', '.join(sorted(missing))}")


def _check_rule(id: str, rule: dict[str, Any]) -> None:
    known(f"{id}: rule", rule.get("is", "nothing"), RULES)
    known(f"{id}: inputs", rule.get("inputs", "both"), INPUTS)
    names = [field.name for field in fields(RULES[rule["is"]])]
    for name in rule:
        known(f"{id}: field of the rule {rule['is']!r}", name, ["is", *names])
    try:
        rule_of(rule, 0)
    except TypeError as problem:  # says which argument is missing
        raise ValueError(f"{id}: rule {rule['is']!r}: {problem}") from None


def known(what: str, name: str, names: Iterable[str]) -> None:
    """Refuse a name that does not exist, and list those that do."""
    if name not in names:
        raise ValueError(f"{what}: found {name!r}; choose among {', '.join(names)}")


def _check_words(id: str, words: str) -> None:
    try:
        words.format(last=0, n_train=0, n_test=0)
    except KeyError as problem:
        raise ValueError(f"{id}: change: found {{{problem.args[0]}}}; choose among "
                         "{last}, {n_train}, {n_test}") from None


def rule_of(entry: dict[str, Any], last: int) -> Rule:
    """The rule that an entry describes, its "last" being that epoch."""
    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: number(inner) for name, inner in value.items()}
        return last if value == "last" else value

    rule: Rule = RULES[entry["is"]](**{k: number(v) for k, v in entry.items() if k != "is"})
    return rule
