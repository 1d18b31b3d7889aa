"""Did it reproduce? The table that ends `make figures`, build/report.json, and the exit status.

A check must hold, a claim must be found as recorded, a figure's table and picture must be the
published ones, and every notebook must run to its end. All else is named below the table.
"""

import json
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from fdimlib.companion import build_folder, provenance
from fdimlib.companion.atomic import replace
from fdimlib.companion.notebooks import Run

HEADINGS = ("notebook", "seconds", "checks", "claims as recorded", "tables the same")


@dataclass(frozen=True)
class Report:
    """The notebooks that were run, or whose last run is up to date.

    Attributes:
        unreached: names of those asked for that did not finish.
        claims: those of each notebook: id, recorded verdict, found verdict.
        chosen: whether other parameters than the defaults were asked for, so that figures made
            with them need not be the published ones.
    """

    runs: list[Run]
    unreached: list[str] = field(default_factory=list)
    claims: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    chosen: bool = False

    @property
    def reproduced(self) -> bool:
        return not self.unreached and not self.problems()

    def table(self) -> str:
        """One line a notebook, under headings."""
        lines = [HEADINGS, *(self._line(run) for run in self.runs)]
        sizes = [max(len(cells[column]) for cells in lines) for column in range(len(HEADINGS))]
        rows = ["  ".join(cell.ljust(size) for cell, size in zip(cells, sizes)).rstrip()
                for cells in lines]
        return "\n".join(rows)

    def _line(self, run: Run) -> tuple[str, ...]:
        seconds = "up to date" if run.up_to_date else f"{run.seconds:.0f}"
        return (run.notebook, seconds, _of(run.held, run.of), self._claims(run),
                _of(sum(figure["state"] == "same" for figure in run.figures), len(run.figures)))

    def _claims(self, run: Run) -> str:
        claims = self.claims.get(run.notebook[:2], [])
        return _of(sum(c["recorded"] == c["found"] for c in claims), len(claims))

    def problems(self) -> list[str]:
        """What is not as it should be, a line each."""
        lines = []
        for run in self.runs:
            if run.error:
                lines.append(f"{run.notebook} failed: {run.error}")
            lines += [f"{run.notebook}: check does not hold: {statement} (measured: {measured})"
                      for statement, measured in run.failed]
            for figure in run.figures:
                if figure["state"] == "differs" or (figure["state"] == "other" and not self.chosen):
                    lines.append(f"{run.notebook}: {_differences(figure)}")
            lines += [f"{run.notebook}: claim {c['id']}: recorded {c['recorded']}, "
                      f"found {c['found']}" for c in self.claims.get(run.notebook[:2], [])
                      if c["recorded"] != c["found"]]
        return lines

    def notes(self) -> list[str]:
        """Where figures went that were made with other parameters, as was asked for."""
        return [figure["told"] for run in self.runs for figure in run.figures
                if figure["state"] == "other" and self.chosen]

    def as_json(self) -> dict[str, Any]:
        commit, dirty = provenance.commit()
        notebooks = [asdict(run) | {"claims": self.claims.get(run.notebook[:2], [])}
                     for run in self.runs]
        return {"reproduced": self.reproduced, "problems": self.problems(),
                "unreached": self.unreached, "commit": commit, "dirty": dirty,
                **provenance.versions(), "notebooks": notebooks}

    def write(self) -> Path:
        """Write build/report.json, as a whole.

        Raises:
            OSError: it cannot be written.
        """
        path = build_folder() / "report.json"
        replace(path, json.dumps(self.as_json(), indent=1, ensure_ascii=False).encode())
        return path


def _of(good: int, all_: int) -> str:
    return f"{good} of {all_}" if all_ else "–"


def _differences(figure: dict[str, Any]) -> str:
    """The line below the figure, and the further places where its table differs."""
    places = [f"\n  also column {d['column']}, row {d['row']}: published {d['published']}, "
              f"now {d['found']}" for d in figure["differences"][1:]]
    return figure["told"] + "".join(places)


def judged_claims() -> dict[str, list[dict[str, str]]]:
    """Number of the notebook → its claims, judged anew from the committed tables."""
    claims = import_module("fdimlib.companion.claims")  # pandas, and some seconds
    found: dict[str, list[dict[str, str]]] = {}
    for claim in claims.judge():
        row = {"id": claim.id, "recorded": str(claim.recorded), "found": str(claim.found)}
        found.setdefault(claim.notebook[:2], []).append(row)
    return found
