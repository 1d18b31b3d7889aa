"""`fdimlib figures` in a small clone: what is the same, and whether planted faults are named.

The clone has notebooks of its own, published and committed; then each is changed in one way.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).parents[2]

PARAMETERS = '''preset: str = "quick"  # quick, paper
seed: int = 0  # of the grid'''
GRID = '''
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from fdimlib.companion import figures
figures.check_parameters(preset=preset, seed=seed)
figures.use_style()
ranks = np.random.default_rng(seed).integers(0, 9, (4, 5))
fig, ax = plt.subplots()
ax.imshow(ranks)
figures.save(fig, "NN_1_grid", "Ranks.", preset=preset, seeds=seed, method="none",
             alt="a coloured grid", data=pd.DataFrame(ranks).add_prefix("at "))
'''
CHECKS = '''
checks = figures.Checks()
checks.add("ranks are at least 0", ranks.min(), ranks.min() >= 0)
checks
'''
SAME, RANK, PIXEL, SEED, CHECK, PICTURE, ERROR, DEATH = (
    f"{number:02}_{name}" for number, name in enumerate(
        ("same", "rank", "pixel", "seed", "check", "picture", "error", "death"), 1))
PUBLISHED = (SAME, RANK, PIXEL, SEED, CHECK, PICTURE)


def write_notebook(path, parameters=PARAMETERS, grid=GRID, checks=CHECKS):
    book = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}, id="parameters"),
        nbformat.v4.new_code_cell(grid.replace("NN", path.name[:2]), id="grid"),
        nbformat.v4.new_code_cell(checks, id="checks"),
    ])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)


def environment():
    changed = {"OMP_NUM_THREADS": "1", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
               "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    kept = {name: value for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "FDIMLIB_BUILD", "FDIMLIB_FIGURES")}
    return kept | changed


def command(*arguments):
    return [sys.executable, "-m", "fdimlib", "figures", *arguments]


def run(clone, *arguments, **variables):
    return subprocess.run(command(*arguments), cwd=clone, env=environment() | variables, text=True,
                          capture_output=True)


def git(clone, *arguments):
    return subprocess.run(["git", *arguments], cwd=clone, env=environment(), text=True, check=True,
                          capture_output=True).stdout


def heed_interrupts():
    """What a shell starts in the background ignores them, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def report(clone):
    return json.loads((clone / "build" / "report.json").read_text())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A clone with eight notebooks, the figures of six published, all committed."""
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "fdimlib", clone / "fdimlib",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (clone / ".gitignore").write_text("build/\n__pycache__/\n")
    for name in (SAME, RANK, PIXEL, SEED, CHECK, PICTURE, ERROR, DEATH):
        write_notebook(clone / "notebooks" / f"{name}.ipynb")
    git(clone, "init", "--quiet")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "notebooks")
    done = run(clone, "--only", *PUBLISHED, FDIMLIB_REFRESH="1")
    assert done.returncode == 0, done.stdout + done.stderr
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "figures")
    shutil.rmtree(clone / "build")
    return clone


@pytest.fixture(scope="module")
def same(published):
    """What running two of them again prints."""
    return run(published, "--only", SAME, RANK)


def plant(clone):
    """One fault in each notebook but the first."""
    table = clone / "figures" / "data" / f"{RANK[:2]}_1_grid.csv"
    head, first, *rest = table.read_text().splitlines()
    ranks = first.split(",")
    ranks[3] = str(int(ranks[3]) + 1)
    table.write_text("\n".join([head, ",".join(ranks), *rest, ""]))

    notebooks = clone / "notebooks"
    pixel = GRID.replace("fig, ax =", "ranks[2, 1] += 1\nfig, ax =")
    write_notebook(notebooks / f"{PIXEL}.ipynb", grid=pixel)
    write_notebook(notebooks / f"{SEED}.ipynb", PARAMETERS.replace("= 0", "= 1"))
    write_notebook(notebooks / f"{CHECK}.ipynb", checks=CHECKS.replace(">= 0", ">= 1"))
    write_notebook(notebooks / f"{ERROR}.ipynb", grid="[][9]")
    write_notebook(notebooks / f"{DEATH}.ipynb", grid="import os; os._exit(1)")

    path = clone / "figures" / f"{PICTURE[:2]}_1_grid.png"
    with Image.open(path) as picture:
        texts, pixels = PngInfo(), np.array(picture)
        for name, value in picture.info.items():
            if isinstance(value, str):
                texts.add_text(name, value)
    pixels[200:260, 300:360, :3] ^= 255  # a patch in the opposite colours
    Image.fromarray(pixels).save(path, pnginfo=texts)


@pytest.fixture(scope="module")
def planted(published, same, tmp_path_factory):
    """What the clone prints with its faults, and where that clone is."""
    clone = tmp_path_factory.mktemp("planted") / "clone"
    shutil.copytree(published, clone)
    plant(clone)
    return run(clone), clone


@pytest.mark.slow
def test_a_clean_clone_ends_with_every_line_the_same_and_a_clean_tree(published, same):
    assert same.returncode == 0, same.stdout + same.stderr
    assert len(re.findall(r"^0\d_\w+ +\d+ +1 of 1 +– +1 of 1$", same.stdout, re.MULTILINE)) == 2
    assert "\nall is as published" in same.stdout and same.stderr == ""
    assert git(published, "status", "--porcelain") == ""
    found = report(published)
    assert found["reproduced"] and found["problems"] == [] and len(found["notebooks"]) == 2
    assert found["commit"] == git(published, "rev-parse", "HEAD").strip() and not found["dirty"]


@pytest.mark.slow
def test_again_with_nothing_changed_no_notebook_runs(published, same):
    copy = published / "build" / "executed" / "quick" / f"{SAME}.ipynb"
    before = copy.stat().st_mtime_ns
    again = run(published, "--only", SAME, RANK)
    assert again.returncode == 0
    assert len(re.findall(r"^0\d_\w+ +up to date +1 of 1", again.stdout, re.MULTILINE)) == 2
    assert copy.stat().st_mtime_ns == before
    assert run(published, "--only", SAME, "--fresh").returncode == 0
    assert copy.stat().st_mtime_ns > before


@pytest.mark.slow
@pytest.mark.parametrize("line", [
    rf"{RANK}: 02_1_grid is not the published one: column at 3, row 1: published \d, now \d; its",
    rf"{PIXEL}: 03_1_grid is not the published one: column at 1, row 3: published \d, now \d; its",
    rf"{SEED}: 04_1_grid is made with preset quick, seed 1, the published one with preset quick, s",
    rf"{CHECK}: check does not hold: ranks are at least 0 \(measured: 0\)",
    rf"{PICTURE}: 06_1_grid is not the published one: published another picture, now one that is",
    rf"{ERROR} failed: cell In \[\d\] raised IndexError: ",
    rf"{DEATH} failed: DeadKernelError: ",
])
def test_a_planted_fault_turns_the_exit_status_and_is_named(line, planted):
    done, clone = planted
    assert done.returncode == 1
    assert len(re.findall(f"^{line}", done.stdout, re.MULTILINE)) == 1, done.stdout
    found = report(clone)
    assert not found["reproduced"]
    assert any(re.match(line, problem) for problem in found["problems"])


@pytest.mark.slow
def test_after_a_change_only_what_depends_on_it_runs(planted):
    done, _ = planted
    lines = dict(re.findall(r"^(0\d_\w+) +(up to date|\d+) ", done.stdout, re.MULTILINE))
    assert [name for name, seconds in lines.items() if seconds == "up to date"] == [SAME]
    assert len(lines) == 8


@pytest.mark.slow
def test_a_fault_changes_no_published_file_and_new_ones_lie_in_the_build_folder(planted):
    _, clone = planted
    changed = {line.split()[1] for line in git(clone, "status", "--porcelain").splitlines()}
    assert changed == {"figures/data/02_1_grid.csv", "figures/06_1_grid.png", *(
        f"notebooks/{name}.ipynb" for name in (PIXEL, SEED, CHECK, ERROR, DEATH))}
    new = {path.name for path in (clone / "build" / "figures").rglob("*.png")}
    assert new == {f"0{number}_1_grid.png" for number in (2, 3, 4, 6)}


@pytest.mark.slow
def test_another_preset_touches_nothing_published_and_says_where_it_went(published, same):
    done = run(published, "--preset", "paper", "--only", SAME)
    assert done.returncode == 0, done.stdout
    assert "01_1_grid_paper is not published; its files: " in done.stdout
    assert (published / "build" / "figures" / "01_1_grid_paper.png").exists()
    assert git(published, "status", "--porcelain") == ""


@pytest.mark.slow
def test_two_at_once_in_one_clone_share_the_work_and_agree(published, same):
    shutil.rmtree(published / "build")
    both = [subprocess.Popen(command("--only", SAME, RANK), cwd=published, env=environment(),
                             text=True, stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("up to date  1 of 1") for text in printed) == 2, printed
    assert git(published, "status", "--porcelain") == "" and report(published)["reproduced"]


@pytest.mark.slow
def test_an_interrupted_run_reports_and_the_next_one_goes_on(published, same):
    shutil.rmtree(published / "build", ignore_errors=True)
    slow = published / "notebooks" / "09_slow.ipynb"
    write_notebook(slow, grid=f"import time\ntime.sleep(600)\n{GRID}")
    try:
        process = subprocess.Popen(command("--only", SAME, "09"), cwd=published, text=True,
                                   env=environment(), stdout=subprocess.PIPE,
                                   preexec_fn=heed_interrupts)
        finished = published / "build" / "executed" / "quick" / f"{SAME}.json"
        while not finished.exists() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed = process.communicate()[0]
        assert process.returncode == 1
        assert re.search(rf"^{SAME} +\d+ +1 of 1", printed, re.MULTILINE), printed
        assert "not finished: 09_slow; the same command goes on from here" in printed
        assert report(published)["unreached"] == ["09_slow"]
        assert "up to date" in run(published, "--only", SAME).stdout
    finally:
        slow.unlink()


@pytest.mark.slow
def test_the_notebook_test_names_a_table_that_is_not_the_published_one(published, tmp_path):
    """nbval: a figure that differs says so in an output that the committed notebook lacks."""
    clone = tmp_path / "clone"
    shutil.copytree(published, clone)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    executed = clone / "notebooks" / f"{SAME}.ipynb"
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace",
                    "--ExecutePreprocessor.kernel_manager_class="
                    "fdimlib.companion.kernels.OwnKernel", str(executed)],
                   cwd=clone, env=environment(), check=True, capture_output=True)
    nbval = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "--rootdir=.", "--nbval",
             "--nbval-current-env", str(executed)]
    table = clone / "figures" / "data" / "01_1_grid.csv"
    text = table.read_text()
    for content, status in ((text, 0), (text.replace("\n", "1\n", 2).replace("1\n", "\n", 1), 1)):
        table.write_text(content)
        done = subprocess.run(nbval, cwd=clone, env=environment(), text=True, capture_output=True)
        assert done.returncode == status, done.stdout
    assert "01_1_grid is not the published one: column at 4, row 1" in done.stdout
