"""The committed notebooks are executed, clean, readable.

nbval, in `make test`, compares their outputs with a fresh run.
"""

import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from papermill import inspect_notebook

from fdimlib.companion import provenance

ROOT = Path(__file__).parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    return book


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def lines(cell):
    """Those that carry an idea: not the imports, nor the check of the parameters."""
    return [
        line
        for line in cell.source.splitlines()
        if line.strip() and not re.match(r"(import|from) |figures\.check_parameters\(", line)
    ]


def test_there_are_notebooks():
    assert [path.name for path in PATHS if path.name.startswith("00")] == ["00_start_here.ipynb"]


def test_committed_executed_in_order(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(
        range(1, len(code(notebook)) + 1)
    )
    assert sum(bool(cell.outputs) for cell in code(notebook)) >= 3, (
        "nbval passes vacuously without stored outputs"
    )


def test_committed_outputs_hold_no_error_and_no_stderr(notebook):
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert [o.ename for o in outputs if o.output_type == "error"] == []
    assert [o.text for o in outputs if o.get("name") == "stderr"] == []


def test_committed_without_leftovers(notebook):
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert {key for cell in notebook.cells for key in cell.metadata} <= {"tags"}
    assert [cell.metadata.get("tags") for cell in notebook.cells if "tags" in cell.metadata] == [
        ["parameters"]
    ]
    assert all(re.fullmatch(r"[a-z][a-z0-9-]+", cell.id) for cell in notebook.cells), (
        "cell ids are readable slugs"
    )
    mimes = {
        mime
        for cell in code(notebook)
        for output in cell.outputs
        for mime in output.get("data", {})
    }
    assert not [mime for mime in mimes if "widget" in mime]


def test_begins_with_title_and_typed_parameters(notebook, path):
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[1].metadata.get("tags") == ["parameters"]
    parameters = inspect_notebook(str(path))
    assert "preset" in parameters
    assert all(p["inferred_type_name"] != "None" and p["help"] for p in parameters.values()), (
        parameters
    )


def test_every_parameter_is_read(notebook, path):
    rest = "\n".join(
        line
        for cell in code(notebook)[1:]
        for line in cell.source.splitlines()
        if not line.startswith("figures.check_parameters(")
    )
    assert [
        name for name in inspect_notebook(str(path)) if not re.search(rf"\b{name}\b", rest)
    ] == []


def test_every_parameter_is_checked_in_the_second_code_cell(notebook, path):
    names = list(inspect_notebook(str(path)))
    call = f"figures.check_parameters({', '.join(f'{name}={name}' for name in names)})"
    second = code(notebook)[1].source.splitlines()
    assert second.index(call) < second.index("figures.use_style()")


def test_cells_are_short_and_prose_is_at_least_as_long(notebook):
    sizes = [len(lines(cell)) for cell in code(notebook)]
    assert len(sizes) <= 35 and max(sizes) <= 30, sizes
    code_words, prose_words = (
        sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == kind)
        for kind in ("code", "markdown")
    )
    assert prose_words >= code_words


def test_ends_with_checks_that_were_counted(notebook):
    headings = [
        line
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    assert headings[-1] == "## Checks"
    counts = [
        o.metadata["fdimlib"]
        for cell in code(notebook)
        for o in cell.outputs
        if "fdimlib" in o.get("metadata", {})
    ]
    assert len(counts) == 1 and counts[0]["of"] >= 3


def test_pictures_have_alternative_text(notebook):
    pictures = [
        o for cell in code(notebook) for o in cell.outputs if "image/png" in o.get("data", {})
    ]
    assert pictures
    assert all(len(o.metadata["image/png"]["alt"]) > 30 for o in pictures)


def test_relative_links_lead_somewhere(notebook, path):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = [
        t.split("#")[0]
        for t in re.findall(r"\]\(([^)\s]+)\)", prose)
        if not t.startswith(("http", "#"))
    ]
    assert targets and [t for t in targets if not (path.parent / t).exists()] == []


def test_figures_promised_by_the_notebook_are_committed_with_their_tables(notebook, path):
    names = re.findall(
        r'figures\.save\([^"]*"([^"]+)"', "\n".join(cell.source for cell in code(notebook))
    )
    assert names and all(name.startswith(path.name[:3]) for name in names)
    committed = {
        re.sub(r"_(paper|large)\.", ".", str(file.relative_to(ROOT / "figures")))
        for file in (ROOT / "figures").rglob("*")
    }  # some show a larger setting only
    files = [
        file for name in names for file in (f"{name}.png", f"{name}.pdf", f"data/{name}.csv")
    ]
    assert [file for file in files if file not in committed] == []
    assert names == sorted(names) and all(a[:4] != b[:4] for a, b in pairwise(names)), (
        "figures are numbered in order"
    )


def test_figures_and_tables_say_where_they_come_from(path):
    pictures = sorted((ROOT / "figures").glob(f"{path.name[:2]}_*.png"))
    files = [file for picture in pictures for file in (
        picture, picture.with_suffix(".pdf"),
        picture.parent / "data" / picture.with_suffix(".csv").name)]
    origins = {file.name: provenance.read(file) for file in files}
    assert origins and [name for name, origin in origins.items() if not origin] == []
    assert {origin["notebook"] for origin in origins.values()} == {path.name}
    assert {origin["parameters"]["preset"] for origin in origins.values()} == {"quick"}
    assert [name for name, origin in origins.items() if origin["dirty"]] == []
    assert {origin["table"] for name, origin in origins.items() if name.endswith(".csv")} == {
        "as drawn"}
