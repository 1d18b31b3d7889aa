"""`python -m fdimlib figures`, the figure files, and the files that tell how to install and cite."""

import re
import shlex
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement

import fdimlib.__main__ as command_line
from fdimlib.companion import commands, figures

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]

GOOD = """
import matplotlib.pyplot as plt
from fdimlib.companion import figures
fig, ax = plt.subplots()
figures.save(fig, "01_1_good", "A square.", preset=preset, seeds=0, method="none", alt="an empty square")
checks = figures.Checks()
checks.add("1 < 2", 1, 1 < 2)
checks.add("preset arrives", preset, preset == "paper")
checks
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of three tiny notebooks: one that works, one that fails, one that takes no preset."""
    cells = {"01_good": ('preset: str = "quick"  # quick, paper', GOOD),
             "02_bad": ('preset: str = "quick"  # quick, paper', 'print("before")\nraise ArithmeticError("on purpose")'),
             "03_other": ("wrong: int = 1  # not a preset", "1 + 1")}
    (tmp_path / "notebooks").mkdir()
    for name, (parameters, code) in cells.items():
        book = nbformat.v4.new_notebook(cells=[
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)])
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr(commands, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(commands, "EXECUTED", tmp_path / "executed")
    monkeypatch.setattr(figures, "REPOSITORY", tmp_path)
    monkeypatch.setenv("FDIMLIB_FIGURES", str(tmp_path / "figures"))
    return tmp_path


def test_a_failing_notebook_is_named_and_does_not_stop_the_others(folder, capsys):
    committed = {path: path.read_bytes() for path in (folder / "notebooks").iterdir()}
    status = command_line.main(["figures", "--preset", "paper"])
    printed = capsys.readouterr().out
    assert status == 2
    assert re.search(r"01_good +\d+ +1 +2 of 2", printed)
    assert "02_bad failed: cell In [3] raised ArithmeticError: on purpose" in printed
    assert str(folder / "executed" / "paper" / "02_bad.ipynb") in printed
    assert "03_other failed: ValueError: takes no parameter 'preset' (its parameters: wrong)" in printed
    assert "before" in (folder / "executed" / "paper" / "02_bad.ipynb").read_text()
    assert (folder / "figures" / "01_1_good_paper.png").exists() and (folder / "figures" / "01_1_good_paper.pdf").exists()
    assert "A square." in (folder / "figures" / "README.md").read_text()
    assert committed == {path: path.read_bytes() for path in (folder / "notebooks").iterdir()}


def test_only_chooses_by_name_or_number_and_lists_what_there_is(folder, capsys):
    assert command_line.main(["figures", "--only", "notebooks/01_good.ipynb"]) == 0
    assert [path.name for path in commands._choose(["02", "01_good"])] == ["01_good.ipynb", "02_bad.ipynb"]
    with pytest.raises(SystemExit, match="found 99_none; choose among 01_good, 02_bad, 03_other"):
        command_line.main(["figures", "--only", "99_none"])


def test_cuda_is_refused_where_there_is_none(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"--device: found cuda, .* use --device cpu"):
        command_line.main(["figures", "--device", "cuda"])


def test_figures_are_the_same_bytes_each_time(tmp_path, monkeypatch):
    figures.use_style()
    monkeypatch.setenv("FDIMLIB_FIGURES", str(tmp_path))
    written = []
    for _ in range(2):
        fig, ax = plt.subplots()
        ax.plot([0, 1], [1, 0], label="Df_θ(X)")
        figures.save(fig, "01_1_line", "A line.", preset="quick", seeds="0", method="none", alt="a falling line")
        written.append([(tmp_path / f"01_1_line.{kind}").read_bytes() for kind in ("png", "pdf")])
    assert written[0] == written[1]


def test_the_index_of_the_committed_figures_is_up_to_date(tmp_path):
    for path in (ROOT / "figures").glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert figures.write_index(tmp_path).read_text() == (ROOT / "figures" / "README.md").read_text()


def test_checks_count_what_holds_and_escape_what_they_show():
    checks = figures.Checks()
    checks.add("r < P", "3 < 7", True)
    checks.add("r = 4", 3, False)
    data, metadata = checks._repr_mimebundle_()
    assert metadata == {"fdimlib": {"held": 1, "of": 2}}
    assert data["text/plain"] == "statement | measured | holds\nr < P | 3 < 7 | yes\nr = 4 | 3 | NO"
    assert "r &lt; P" in data["text/html"]


def test_the_lock_file_pins_every_requirement_exactly_and_names_no_index():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    pinned = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}
    assert pinned["torch"] == "2.13.0"
    unmet = [str(r) for r in REQUIREMENTS if r.name not in pinned or not r.specifier.contains(pinned[r.name])]
    assert unmet == []


def test_environment_yml_installs_the_package_and_lists_nothing_else():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["--requirement requirements.lock", "--editable .[test]"]}
    assert environment["name"] == PROJECT["name"]


def test_the_readme_says_what_each_requirement_is_for():
    readme = (ROOT / "README.md").read_text()
    assert [r.name for r in REQUIREMENTS if f"`{r.name}`" not in readme] == []


def test_readme_commands_are_real(folder):
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(?:.*`)?make (\w+)", readme, re.MULTILINE))
    assert {"figures", "test", "lab"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []
    calls = re.findall(r"python -m fdimlib ([^\n`#]+)", readme)
    assert calls
    for call in calls:
        with pytest.raises(SystemExit) as stopped:
            command_line.main([*shlex.split(call), "--help"])
        assert stopped.value.code == 0, call


def test_the_readme_example_runs_and_prints_what_it_says(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
        promised, printed = re.findall(r"# → (.*)", block), capsys.readouterr().out
        assert promised and [line for line in promised if line not in printed] == []


def test_the_readme_quotes_the_numbers_of_its_figure():
    readings = pd.read_csv(ROOT / "figures" / "data" / "10_2_readings.csv").set_index(["entries", "epoch"])
    ends = [readings.index.get_level_values("epoch").min(), readings.index.get_level_values("epoch").max()]
    exact, counted = readings.exact["float64"][ends].tolist(), readings.svd["float32"][ends].tolist()
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"the exact rank rises from {exact[0]:,} to {exact[1]:,}" in readme
    assert f"falls from {counted[0]:,} to {counted[1]:,}" in readme
    assert f"exceed {readings.bound.max():,}" in readme and counted[0] > readings.bound.max()


def test_the_readme_quotes_the_counts_at_the_authors_width():
    tables = {name: pd.read_csv(ROOT / "figures" / "data" / f"{name}_paper.csv") for name in ("training", "noise", "labels")}
    at = {name: t[(t.width == 30) & (t.inputs == "train")].dropna(subset="svd_seconds") for name, t in tables.items()}
    assert all((table.exact == 5400).all() and (table.sample_bound == 5400).all() for table in at.values())
    first = at["training"][at["training"].seed == 0].set_index("epoch").svd_float32_softmax
    noisy, random_labels = (at[name][(at[name].seed == 0) & (at[name][column] > 0)].svd_float32_softmax.item()
                            for name, column in (("noise", "noise"), ("labels", "random_labels")))
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"seed 0: from {first[0]:,.0f} to {first[680]:,.0f}" in readme
    assert f"with noise (to {noisy:,.0f}) and with random labels (to {random_labels:,.0f})" in readme


def test_ci_runs_the_readme_test_command():
    script = [line for line in (ROOT / ".ci/run").read_text().splitlines() if not line.startswith("#")]
    assert script == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]


def test_the_citation_names_companion_and_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["references"][0]["title"].startswith("Geometry-induced Implicit Regularization")
