"""What the claims file and the tables say, in words: for the README, notebook 15, the terminal.

Everything here is Markdown or plain text made of `claims.judge`; nothing is judged here.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from fdimlib.companion import REPOSITORY, claims
from fdimlib.companion.claims import Judgement
from fdimlib.companion.claims_file import load, settings
from fdimlib.companion.judgements import EVERY_WIDTH

README = REPOSITORY / "README.md"
BEGIN = "<!-- The table is generated: python -m fdimlib claims --record -->"
END = "<!-- end of the generated table -->"

ORDER = ("holds", "no plateau seen", "mixed", "not reached", "fails", "no fall seen",
         "not claimed", "no pair can tell", "no network can tell", "not yet measured")
"""Words of verdicts, as they are told: what holds first."""


def words(verdicts: dict[str, str]) -> str:
    """The verdicts width by width in a line, what holds first; counts where they say more.

    >>> words({"5": "fails (0 of 5)", "10": "mixed (2 of 5)", "30": "holds (5 of 5, chance 1/32)"})
    'holds at w = 30 (5 of 5); mixed at w = 10 (2 of 5); fails at w = 5'
    """
    if not any(key.isdecimal() for key in verdicts):
        return "; ".join(_short(verdict) for verdict in verdicts.values())
    by_word: dict[str, dict[str, list[str]]] = {}
    for width, verdict in verdicts.items():
        word, _, counts = verdict.rstrip(")").partition(" (")
        counts = counts.split(",")[0].removesuffix(" networks")
        by_word.setdefault(word, {}).setdefault(counts, []).append(width)
    return "; ".join(f"{word} at w = {_widths(by_word[word])}"
                     for word in sorted(by_word, key=ORDER.index))


def _short(verdict: str) -> str:
    """That on a curve without its count of steps, where it has more to say."""
    return re.sub(r"\([^;]*steps[^;]*; ", "(", verdict)


def _widths(by_counts: dict[str, list[str]]) -> str:
    """Widths with their counts; without, where all say none: "0 of 5"."""
    if all(re.fullmatch(r"(0 of \d+)?", counts) for counts in by_counts):
        return ", ".join(sorted((w for widths in by_counts.values() for w in widths), key=int))
    told = []
    for counts, widths in by_counts.items():
        each = " each" if len(widths) > 1 else ""
        told.append(f"{', '.join(widths)} ({counts}{each})")
    return ", ".join(told)


def side_by_side(
    judged: Iterable[Judgement], *, headlines: bool = False, decides: bool = False,
) -> str:
    """A Markdown table: each claim, a column for each setting, and what decides between them.

    Args:
        headlines: only the readings that are marked so in the claims file; otherwise all.
        decides: with the last column.
    """
    judged = [j for j in judged if j.setting != claims.THEORY and (j.headline or not headlines)]
    heads = ["the authors' claim", *(setting.title for setting in settings().values())]
    rows = []
    for name in dict.fromkeys(judgement.claim for judgement in judged):
        claim = claims.claim(name)
        cells = [f"**{claim['number']}** {claim['statement']}"]
        for setting in settings():
            cells.append(_cell(j for j in judged if (j.claim, j.setting) == (name, setting)))
        rows.append(cells + [claim["between"]] * decides)
    return _markdown(heads + ["what decides between them"] * decides, rows)


def _cell(judged: Iterable[Judgement]) -> str:
    """The readings of a claim at a setting, a line each; those that say the same share one."""
    lines: dict[str, dict[str, list[str]]] = {}
    for j in judged:
        change = j.change if j.authors else f"our question: {j.change}"
        lines.setdefault(words(j.found), {}).setdefault(change, []).append(j.inputs)
    told = {said: "; ".join(f"{change}, {' and '.join(inputs)}" for change, inputs in whats.items())
            for said, whats in lines.items()}
    return "<br>".join(f"*{whats}:* {said}" for said, whats in told.items()) or "–"


def theorems(judged: Iterable[Judgement]) -> str:
    """A Markdown table of what is proved, with the notebooks that show it and their checks."""
    checks = {j.id: j.found["checks"] for j in judged if j.setting == claims.THEORY}
    rows = [[entry["statement"], entry["verdict"],
             f"[{entry['notebook'][:2]}]({entry['notebook']}.ipynb); {checks[entry['id']]}"]
            for entry in load()["theorems"]]
    return _markdown(["statement, in short", "verdict", "where to see it; its checks"], rows)


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def glance(judged: Iterable[Judgement], setting: str) -> pd.DataFrame:
    """Every verdict of a setting by width, "mixed 2 of 4": rows are claims, changes and inputs."""
    rows = {(claims.claim(j.claim)["number"], j.change, j.inputs):
            {int(width): re.sub(r" \((.*? of \d+).*", r" \1", verdict)
             for width, verdict in j.found.items()}
            for j in judged if j.setting == setting and EVERY_WIDTH not in j.found}
    index = pd.MultiIndex.from_tuples(rows, names=["claim", "change", "inputs"])
    frame = pd.DataFrame(list(rows.values()), index)
    return frame[sorted(frame)].rename_axis(columns="w").fillna("–")


def in_readme(text: str) -> str:
    """The README with its table of findings as the claims file and the tables have it now.

    Raises:
        ValueError: its markers are not there.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README: the lines {BEGIN!r} and {END!r} are not both there; put them "
                         "around the table of findings")
    before, rest = text.split(BEGIN)
    table = side_by_side(claims.judge(), headlines=True)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}"


def write_readme(path: Path = README) -> bool:
    """Put the table into the README; whether that changed it."""
    text = path.read_text(encoding="utf-8")
    renewed = in_readme(text)
    if renewed != text:
        path.write_text(renewed, encoding="utf-8")
    return renewed != text
