"""The commands on machines as they are: foreign kernelspecs, folders that cannot be written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import fdimlib.__main__ as command_line
from fdimlib.companion import experiments, figures, kernels, notebooks
from fdimlib.companion.experiments import Point, Run

ROOT = Path(__file__).parents[2]
POINTS = [Point(Run(2, seed, n_train=20), 0, "train", 20) for seed in (0, 1)]

# What a notebook sees: the interpreter, the package, its folders, its parameters.
LOOK = """
import json, os, sys
from pathlib import Path
import fdimlib
from fdimlib.companion import build_folder, figures, figures_folder
from IPython.paths import get_ipython_dir
figures.check_parameters(preset=preset)
seen = {"python": sys.executable, "package": fdimlib.__file__, "figures": str(figures_folder()),
        "build": str(build_folder()), "profile": get_ipython_dir()}
Path(os.environ["SEEN"]).write_text(json.dumps(seen))
"""


def write_notebook(path, code):
    book = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell('preset: str = "quick"  # quick, paper',
                                  metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with one notebook that looks around; the working directory is another one."""
    write_notebook(tmp_path / "notebooks" / "01_look.ipynb", LOOK)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    monkeypatch.setenv("FDIMLIB_FIGURES", "the figures")
    monkeypatch.setenv("FDIMLIB_BUILD", "unused")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def foreign_kernelspec(folder, command):
    """A kernelspec called python3, first on Jupyter's path."""
    spec = {"argv": [*command, "-f", "{connection_file}"], "display_name": "Python 3",
            "language": "python"}
    path = folder / "kernels" / "python3" / "kernel.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(spec))


@pytest.mark.parametrize("command", [
    ["/gone/bin/python", "-m", "ipykernel_launcher"],
    [sys.executable, "-c", "raise SystemExit('the foreign environment was used')"],
])
def test_notebooks_run_in_this_interpreter_whatever_is_called_python3(command, clone, monkeypatch):
    foreign_kernelspec(clone / "jupyter", command)
    monkeypatch.setenv("JUPYTER_PATH", str(clone / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(clone / "profile"))
    assert command_line.main(["figures", "--build", "a build"]) == 0
    seen = json.loads((clone / "seen.json").read_text())
    assert seen["python"] == sys.executable
    assert Path(seen["package"]) == ROOT / "fdimlib" / "__init__.py"
    assert seen["profile"] != str(clone / "profile"), "the user's start-up files are not run"
    assert not (clone / "profile").exists()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [
    ["nbconvert", "--to", "notebook", "--execute", "--output", "executed",
     "--ExecutePreprocessor.kernel_manager_class=fdimlib.companion.kernels.OwnKernel"],
    ["pytest", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", "--confcutdir", str(ROOT),
     "--nbval", "--nbval-current-env", "-p", "conftest"],
])
def test_so_do_the_commands_of_make_refresh_and_make_test(arguments, clone):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = [word for word in arguments if word.startswith(("--Execute", "--nbval"))]
    assert [word for word in named if word not in makefile] == []
    foreign_kernelspec(clone / "jupyter", ["/gone/bin/python"])
    done = subprocess.run(
        [sys.executable, "-m", *arguments, str(clone / "notebooks" / "01_look.ipynb")], text=True,
        env=os.environ | {"JUPYTER_PATH": str(clone / "jupyter"), "PYTHONPATH": str(ROOT)},
        capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads((clone / "seen.json").read_text())
    assert (seen["python"], seen["package"]) == (sys.executable, str(ROOT / "fdimlib/__init__.py"))


@pytest.mark.slow
def test_a_clone_in_a_folder_with_a_space_and_an_umlaut_runs_its_own_package(clone, monkeypatch):
    """Found through the working directory, while the environment may have another one installed."""
    own = clone / "Ordner mit Ümlaut"
    shutil.copytree(ROOT / "fdimlib", own / "fdimlib")
    (clone / "notebooks").rename(own / "notebooks")
    foreign_kernelspec(clone / "jupyter", ["/gone/bin/python"])
    environment = os.environ | {"JUPYTER_PATH": str(clone / "jupyter")}
    for name in ("PYTHONPATH", "FDIMLIB_BUILD", "FDIMLIB_FIGURES"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-m", "fdimlib", "figures"], cwd=own, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads((clone / "seen.json").read_text())
    assert seen["package"] == str(own / "fdimlib" / "__init__.py")
    assert not (own / "figures").exists()
    assert files(own / "build") == [
        "executed", "executed/quick", "executed/quick/01_look.ipynb",
        "executed/quick/01_look.json", "executed/quick/01_look.lock", "report.json"]


def test_relative_folders_are_those_of_the_command_and_not_of_the_kernel(clone, capsys):
    assert command_line.main(["figures", "--build", "a build"]) == 0
    seen = json.loads((clone / "seen.json").read_text())
    assert seen["figures"] == str(clone / "here" / "the figures")
    assert seen["build"] == str(clone / "here" / "a build")
    assert f"executed copies: {clone}/here/a build/executed/quick" in capsys.readouterr().out
    assert not (clone / "here" / "unused").exists()


def test_kernels_speak_through_files_in_a_private_folder(monkeypatch, tmp_path):
    kernel = kernels.OwnKernel()
    assert kernel.transport == "ipc"
    folder = Path(kernel.ip).parent
    assert folder == Path(kernel.connection_file).parent and folder.stat().st_mode & 0o77 == 0
    monkeypatch.setattr(kernels, "LONGEST_ADDRESS", 10)
    assert kernels.OwnKernel().transport == "tcp"


def test_a_missing_kernel_is_named(clone, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert command_line.main(["figures"]) == 1
    printed = capsys.readouterr().out
    assert f"01_look failed: ModuleNotFoundError: kernel: {sys.executable} has no ipyk" in printed


def test_parameters_that_a_notebook_does_not_know_stop_it(clone):
    run = notebooks.run_notebook(clone / "notebooks" / "01_look.ipynb", clone, preset="Paper",
                                 device="cpu")
    message = "raised ValueError: preset: found 'Paper'; use one of 'quick', 'paper', 'large'"
    assert run.error.splitlines()[0].endswith(message)


@pytest.fixture
def unwritable(tmp_path):
    """A folder that nobody can write to, root included: it lies below a file."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "folder"


def stopped(arguments):
    with pytest.raises(SystemExit) as stop:
        command_line.main([str(argument) for argument in arguments])
    return stop.value.code


def test_what_cannot_be_written_is_said_in_a_sentence_before_any_notebook_runs(
    clone, unwritable,
):
    message = stopped(["figures", "--build", unwritable])
    assert message == (f"--build: cannot write to {unwritable}/executed/quick (Not a directory); "
                       "name a folder for the executed copies: --build DIR")
    assert not (clone / "seen.json").exists()


@pytest.mark.parametrize("code, line", [
    ("raise ArithmeticError('on purpose')", r"01_look failed: .* ArithmeticError: on purpose"),
    ("import os; os._exit(1)", r"01_look failed: DeadKernelError: "),
    ("import shutil; shutil.rmtree(build); open(build, 'w').close()", r"01_look failed: \w+Error"),
])
def test_the_closing_table_is_printed_whatever_fails(code, line, clone, capsys):
    code = f"build = {str(clone / 'here' / 'unused')!r}\n{code}"
    write_notebook(clone / "notebooks" / "01_look.ipynb", code)
    assert command_line.main(["figures"]) == 1
    printed = capsys.readouterr().out
    assert "notebook  seconds  checks  claims as recorded  tables the same" in printed
    assert len(re.findall(f"^{line}", printed, re.MULTILINE)) == 1


def test_foreign_pictures_among_the_figures_do_not_lose_the_index(clone, tmp_path):
    from PIL import Image

    target = tmp_path / "mixed"
    target.mkdir()
    for name in ("1.png", "01_holiday.png", "99_2_none.png"):
        Image.new("L", (2, 2)).save(target / name)
    assert "holiday" not in figures.write_index(target).read_text()


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """One experiment of two points; its table belongs into tmp_path/clone."""
    monkeypatch.setattr(experiments, "TABLES", {"tiny": lambda sizes: POINTS})
    monkeypatch.setattr(experiments, "REPOSITORY", tmp_path / "clone")
    monkeypatch.setenv("FDIMLIB_BUILD", str(tmp_path / "build"))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_queries_write_nothing(tiny, tmp_path, unwritable, capsys):
    assert command_line.main(["status"]) == 1
    assert command_line.main(["status", "--build", str(unwritable)]) == 1
    assert capsys.readouterr().out.split()[-5:] == ["2", "0", "0", "0", "2"]
    assert command_line.main(["rerun", POINTS[0].key]) == 0
    assert files(tmp_path) == ["file"]


def test_a_sweep_that_cannot_write_records_says_so_before_it_computes(tiny, unwritable):
    assert stopped(["sweep", "--build", unwritable]) == (
        f"--build: cannot write to {unwritable}/records (Not a directory); "
        "name a folder for the records: --build DIR")
    assert "--records: cannot write to" in stopped(["sweep", "--records", unwritable])


def test_a_table_that_cannot_be_written_is_named_and_its_records_stay(
    tiny, tmp_path, unwritable, monkeypatch, capsys,
):
    monkeypatch.setattr(experiments, "REPOSITORY", unwritable)
    build = tmp_path / "elsewhere"
    assert command_line.main(["sweep", "--build", str(build)]) == 1
    printed = capsys.readouterr().out
    assert f"table: cannot write {unwritable}/figures/data/tiny_quick.csv (" in printed
    assert f"; its rows stay in {build}/records" in printed
    assert printed.split()[-5:] == ["2", "2", "0", "0", "0"]
    assert command_line.main(["status", "--build", str(build)]) == 0


def test_a_record_that_cannot_be_written_ends_the_sweep_with_a_sentence(
    tiny, tmp_path, monkeypatch, capsys,
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fdimlib.companion.records.Records.put", full)
    assert command_line.main(["sweep"]) == 1
    assert "No space left on device); make room and start again" in capsys.readouterr().out


def test_a_folder_of_digits_that_is_none_is_named_by_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("FDIMLIB_MNIST", str(tmp_path / "nowhere"))
    assert stopped(["status"]).startswith(f"FDIMLIB_MNIST: {tmp_path}/nowhere does not exist; it ")


@pytest.mark.slow
def test_a_read_only_checkout_is_enough(tmp_path):
    """Queries, and with folders elsewhere a notebook and a sweep, without a file in the clone."""
    clone, elsewhere = tmp_path / "read only", tmp_path / "elsewhere"
    clone.mkdir()
    bind = subprocess.run(["mount", "--bind", str(ROOT), str(clone)], capture_output=True)
    if bind.returncode:
        pytest.skip("needs the right to mount a folder read-only")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(clone)], check=True)
        environment = os.environ | {"PYTHONPATH": str(clone)}
        environment.pop("FDIMLIB_BUILD", None)

        def run(*arguments, **variables):
            return subprocess.run([sys.executable, "-m", "fdimlib", *arguments], text=True,
                                  env=environment | variables, cwd=clone, capture_output=True)

        status = run("status", "--preset", "paper")
        assert (status.returncode, status.stderr) == (0, "") and "training" in status.stdout
        refused = run("figures", "--only", "15")
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"--build: cannot write to {clone}/build")
        done = run("figures", "--only", "15", "--build", str(elsewhere))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "15_claims.ipynb" in files(elsewhere / "executed" / "quick")
    finally:
        subprocess.run(["umount", str(clone)], check=True)
