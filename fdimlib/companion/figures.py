"""One style for every figure; captions inside the files; the Checks table that ends a notebook."""

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fdimlib.companion import REPOSITORY, parameters, provenance
from fdimlib.companion.atomic import replace
from fdimlib.companion.parameters import check_parameters
from fdimlib.companion.publishing import Drawn, publish
from fdimlib.companion.tables import panels, without_noise

__all__ = [
    "Checks", "check_parameters", "draw_seeds", "panels", "ratio_axis", "save", "spread",
    "use_style", "without_noise", "write_index",
]

def use_style() -> None:
    """The house style: a colour-blind palette, legible at column width, files that reproduce."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.9)
    mpl.rcParams.update({
        "figure.figsize": (7.0, 3.6), "figure.constrained_layout.use": True,
        "figure.dpi": 100, "savefig.dpi": 200,
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.titlesize": "medium", "axes.titlelocation": "left",
        "legend.frameon": False, "svg.hashsalt": "fdimlib", "pdf.fonttype": 42,
    })


def save(
    fig: Figure, name: str, caption: str, *, preset: str, seeds: object, method: str, alt: str,
    data: pd.DataFrame, tolerance: float = 1e-6, noise: Sequence[str] = (),
) -> None:
    """Show a figure with number and caption, and compare it with the published one.

    Where it is the same, nothing is written; else see `publishing`, and a line below the figure.

    Args:
        name: "01_2_slice" is Figure 1.2, made by the notebook numbered 01.
        caption: can be read alone; Markdown.
        preset, seeds, method: what it takes to reproduce the figure; printed below it and in the
            caption. Other presets than "quick" add themselves to the file name.
        alt: what the picture shows, for those who cannot see it.
        data: all that is drawn, in every panel; published as data/<name>.csv.
        tolerance: relative, for the numbers of the table that are not whole.
        noise: columns that only timing or rounding decides; "picture" where it shows noise that the
            table leaves out. They are not compared, nor is the picture.
    """
    notebook, number, _ = name.split("_", 2)
    name = name if preset == "quick" else f"{name}_{preset}"
    setting = f"{preset} preset · seeds {seeds} · {method}"
    fig.text(1.0, -0.01, setting, ha="right", va="top", fontsize="xx-small", color="0.4")
    caption = f"**Figure {int(notebook)}.{number}.** {caption} *({setting}.)*"
    picture = io.BytesIO()
    fig.savefig(picture, format="png", bbox_inches="tight",
                metadata={"Software": None, "Title": name, "Description": caption, "Comment": alt})
    origin = _origin(notebook, preset=preset, seeds=str(seeds), method=method)
    outcome = publish(Drawn(name, fig, picture.getvalue(), caption, data, tolerance, noise, origin))
    plt.close(fig)
    display(Image(picture.getvalue(), width=int(fig.get_figwidth() * 100), alt=alt))
    display(Markdown(caption), metadata={"figure": outcome.as_json()})
    if outcome.told:
        print(outcome.told)


def _origin(number: str, **setting: str) -> dict[str, Any]:
    """The provenance of a figure of the notebook with that number."""
    notebook = next((REPOSITORY / "notebooks").glob(f"{number}_*.ipynb"), Path("unknown")).name
    commit, dirty = provenance.commit(notebook)
    checked = parameters.last_checked()
    return {"notebook": notebook, "commit": commit, "dirty": dirty, **provenance.versions(),
            **setting, "device": checked.device, "parameters": checked.deciding}


def draw_seeds(
    ax: Axes, table: pd.DataFrame, x: str, y: str, color: Any, *,
    label: str | None = None, ls: str = "-",
) -> None:
    """Each seed as a thin line, the median as a bold one with markers.

    They are hollow where the sample bound is the smaller one: there n(N_L − 1) is below
    P − H − (N_{L−1} + 1), so that the sample and not the network limits what can be seen.

    Args:
        table: one row for each x and seed, as `sweeps.results` gives it.
    """
    values = table.pivot(index=x, columns="seed", values=y).astype(float)
    median = values.median(axis=1)
    bounds = table.groupby(x)[["sample_bound", "parameter_bound"]].first()
    hollow = bounds.sample_bound < bounds.parameter_bound
    ax.plot(values.index, values, color=color, ls=ls, lw=0.8, alpha=0.55)
    ax.plot(median.index, median, color=color, ls=ls, lw=2.2, label=label)
    ax.plot(median[~hollow].index, median[~hollow], "o", ms=5, color=color)
    ax.plot(median[hollow].index, median[hollow], "o", ms=5, color=color, mfc="white", mew=1.5,
            zorder=3)


def ratio_axis(ax: Axes, low: float = 0.1, high: float = 10, *, told: bool = True) -> None:
    """An axis for ratios, on which both 1.03 and 3 can be told from 1.

    It shows their logarithm on a square-root scale. Two percent look large on it, so it says at 1
    that it is stretched there, and marks 0.98 and 1.02.

    Args:
        told: False where the axis is too narrow for these words; then its label must say it.
    """
    def forward(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        log = np.log(np.maximum(ratio, 1e-9))  # before they are placed, tick labels stand at 0
        return np.sign(log) * np.sqrt(np.abs(log))

    def backward(place: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(np.sign(place) * place**2)

    ax.set_xscale("function", functions=(forward, backward))
    ax.set_xlim(low, high)
    ticks = [tick for tick in (0.1, 0.5, 0.9, 1.1, 2, 10) if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    note = "\nstretched: small ticks at 0.98, 1.02" if told else ""
    ax.set_xticks([0.98, 1, 1.02], ["", f"1{note}", ""], minor=True)
    style = mpl.rcParams
    pad = style["xtick.major.size"] + style["xtick.major.pad"] - style["xtick.minor.size"]
    ax.tick_params(axis="x", which="minor", pad=pad, labelsize=style["xtick.labelsize"],
                   labelcolor="0.25")


def spread(values: pd.Series, spec: str = ",.0f") -> str:
    """Median [least – largest].

    From m seeds the range covers the true median with probability 1 − 2^(1−m), whatever the law.

    >>> spread(pd.Series([3, 1, 2000]))
    '3 [1 – 2,000]'
    """
    told = (values.min(), values.median(), values.max())
    low, middle, high = (format(value, spec) for value in told)
    return f"{middle} [{low} – {high}]"


def write_index(target: Path) -> Path:
    """figures/README.md: every figure with notebook and caption, read from the PNG files.

    Pictures that no notebook made, and that carry no caption, are left out.
    """
    lines = ["# Figures", "",
             "Made by `make refresh`, compared by `make figures`; this page is generated. The PDF "
             "of each figure and, under `data/`, the table behind it have the same name.", ""]
    for path in sorted(target.glob("[0-9]*.png")):
        text = provenance.png_text(path)
        makers = sorted((REPOSITORY / "notebooks").glob(f"{path.name[:2]}_*.ipynb"))
        if not makers or not {"Comment", "Description"} <= set(text):
            continue
        notebook = makers[0].name
        lines += [f"## {path.stem}", "", f"![{text['Comment']}]({path.name})", "",
                  text["Description"], "",
                  f"Notebook: [{notebook}](../notebooks/{notebook}){_made_from(path)}", ""]
    index = target / "README.md"
    replace(index, "\n".join(lines).encode())
    return index


def _made_from(picture: Path) -> str:
    """Commit and versions, for a line of the index."""
    origin = provenance.read(picture)
    if origin is None:
        return ""
    dirty = ", changed" if origin["dirty"] else ""
    return (f"; commit {origin['commit'][:12]}{dirty}, fdimlib {origin['package']}, "
            f"torch {origin['torch']}, {origin['device']}")


class Checks:
    """The table that ends a notebook: statement | measured | holds.

    >>> checks = Checks()
    >>> checks.add("1 + 1 = 2", 1 + 1, 1 + 1 == 2)
    >>> checks
    statement | measured | holds
    1 + 1 = 2 | 2 | yes
    """

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, bool]] = []

    def add(self, statement: str, measured: object, holds: bool) -> None:
        """Add a line; `holds` is computed by the code above, never written by hand."""
        self.rows.append((statement, str(measured), bool(holds)))

    @property
    def held(self) -> int:
        return sum(holds for *_, holds in self.rows)

    def _cells(self) -> list[tuple[str, str, str]]:
        body = [(statement, measured, "yes" if holds else "NO")
                for statement, measured, holds in self.rows]
        return [("statement", "measured", "holds"), *body]

    def __repr__(self) -> str:
        return "\n".join(" | ".join(cells) for cells in self._cells())

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None,
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Text and HTML for readers; as metadata what the report of `fdimlib figures` needs."""
        head, *body = self._cells()
        rows = "".join(_html_row(cells, "td") for cells in body)
        html = f"<table><thead>{_html_row(head, 'th')}</thead><tbody>{rows}</tbody></table>"
        failed = [[statement, measured] for statement, measured, holds in self.rows if not holds]
        counts = {"fdimlib": {"held": self.held, "of": len(self.rows), "failed": failed}}
        return {"text/plain": repr(self), "text/html": html}, counts


def _html_row(cells: tuple[str, ...], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
