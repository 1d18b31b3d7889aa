"""`fdimlib figures` on small notebooks, and the Checks that end one."""

import re
from pathlib import Path

import nbformat
import pytest

import fdimlib.__main__ as command_line
from fdimlib.companion import figures, notebooks

ROOT = Path(__file__).parents[2]

GOOD = """
import matplotlib.pyplot as plt
import pandas as pd
from fdimlib.companion import figures
figures.check_parameters(preset=preset)
fig, ax = plt.subplots()
figures.save(fig, "01_1_good", "A square.", preset=preset, seeds=0, method="none",
             alt="an empty square", data=pd.DataFrame({"corners": [4]}))
checks = figures.Checks()
checks.add("1 < 2", 1, 1 < 2)
checks.add("preset arrives", preset, preset == "paper")
checks
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of three tiny notebooks: one works, one fails, one takes no preset."""
    preset = 'preset: str = "quick"  # quick, paper'
    cells = {"01_good": (preset, GOOD),
             "02_bad": (preset, 'print("before")\nraise ArithmeticError("on purpose")'),
             "03_other": ("wrong: int = 1  # not a preset", "1 + 1")}
    (tmp_path / "notebooks").mkdir()
    for name, (parameters, code) in cells.items():
        book = nbformat.v4.new_notebook(cells=[
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(code),
        ])
        book.metadata.kernelspec = {
            "name": "python3", "display_name": "Python 3", "language": "python",
        }
        nbformat.write(book, tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("FDIMLIB_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("FDIMLIB_FIGURES", str(tmp_path / "figures"))
    return tmp_path


def test_a_failing_notebook_is_named_and_does_not_stop_the_others(folder, capsys):
    committed = {path: path.read_bytes() for path in (folder / "notebooks").iterdir()}
    status = command_line.main(["figures", "--preset", "paper"])
    printed = capsys.readouterr().out
    assert status == 1
    assert re.search(r"01_good +\d+ +2 of 2 +(–|\d+ of \d+) +0 of 1", printed)
    assert "01_1_good_paper is not published; its files: " in printed
    assert "02_bad failed: cell In [3] raised ArithmeticError: on purpose" in printed
    assert str(folder / "build" / "executed" / "paper" / "02_bad.ipynb") in printed
    assert "03_other failed: ValueError: takes no parameter 'preset'" in printed
    assert "(its parameters: wrong)" in printed
    assert "before" in (folder / "build" / "executed" / "paper" / "02_bad.ipynb").read_text()
    written = {path.name for path in (folder / "build" / "figures").iterdir()}
    assert {"01_1_good_paper.png", "01_1_good_paper.pdf"} <= written
    assert not (folder / "figures").exists(), "nothing is published"
    assert committed == {path: path.read_bytes() for path in (folder / "notebooks").iterdir()}


def test_only_chooses_by_name_or_number_and_lists_what_there_is(folder, capsys):
    assert command_line.main(["figures", "--only", "notebooks/03_other.ipynb"]) == 1
    assert "01_good" not in capsys.readouterr().out
    chosen = [path.name for path in notebooks.choose(["02", "01_good"])]
    assert chosen == ["01_good.ipynb", "02_bad.ipynb"]
    with pytest.raises(SystemExit, match="found 99_none; choose among 01_good, 02_bad, 03_other"):
        command_line.main(["figures", "--only", "99_none"])


def test_cuda_is_refused_where_there_is_none(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"--device: found cuda, .* use --device cpu"):
        command_line.main(["figures", "--device", "cuda"])


@pytest.mark.parametrize("given, message", [
    (dict(preset="Paper"), "preset: found 'Paper'; use one of 'quick', 'paper', 'large'"),
    (dict(preset=None), "preset: found None"),
    (dict(seed=1.5), "seed: found 1.5; give a whole number from 0 to 4294967295, without"),
    (dict(seed="1"), "seed: found '1'"), (dict(seed=True), "seed: found True"),
    (dict(seed=-1), "seed: found -1"), (dict(seed=2**32), "seed: found 4294967296"),
    (dict(device="gpu"), "device: found 'gpu'; use one of 'cpu', 'cuda'"),
    (dict(device="cuda"), "device: found 'cuda', but torch sees no CUDA device here; use 'cpu'"),
    (dict(interactive="yes"), "interactive: found 'yes'; give True or False, without quotes"),
    (dict(interactive="false"), "interactive: found 'false'"), (dict(interactive=1), "interactive"),
])
def test_parameters_are_checked(given, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=f"^{message}"):
        figures.check_parameters(**{"preset": "quick"} | given)


def test_the_index_of_the_committed_figures_is_up_to_date(tmp_path):
    for path in (ROOT / "figures").glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert figures.write_index(tmp_path).read_text() == (ROOT / "figures" / "README.md").read_text()


def test_checks_count_what_holds_and_escape_what_they_show():
    checks = figures.Checks()
    checks.add("r < P", "3 < 7", True)
    checks.add("r = 4", 3, False)
    data, metadata = checks._repr_mimebundle_()
    assert metadata == {"fdimlib": {"held": 1, "of": 2, "failed": [["r = 4", "3"]]}}
    assert data["text/plain"].splitlines() == [
        "statement | measured | holds", "r < P | 3 < 7 | yes", "r = 4 | 3 | NO",
    ]
    assert "r &lt; P" in data["text/html"]
