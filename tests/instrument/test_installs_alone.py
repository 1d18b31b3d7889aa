"""The instrument alone: without the companion's packages, and as a wheel outside the clone."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from safetensors.torch import save_file

import fdimlib as fd

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(command, **options):
    """Standard output; what went wrong is part of the failure."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def needed(requirements):
    """The distributions that these requirements bring, and those that they bring, by name."""
    found, todo = {}, [Requirement(line) for line in requirements]
    while todo:
        requirement = todo.pop()
        if requirement.name not in found and (
                requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[requirement.name] = distribution(requirement.name)
            todo += [Requirement(line) for line in found[requirement.name].requires or ()]
    return found


def modules_of_the_extras():
    """Top-level modules of what the extras name, but for what torch brings anyway."""
    extras = {Requirement(line).name for lines in PROJECT["optional-dependencies"].values()
              for line in lines} - set(needed(PROJECT["dependencies"]))
    return {module for module, names in packages_distributions().items()
            if extras & {name.lower() for name in names}}


WITHOUT_THE_EXTRAS = """
import sys

class Refuse:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Refuse)
import fdimlib as fd
net, x = fd.relu_mlp([2, 3, 2], seed=0, bias_std=1.0), [[1, 2]]
print(int(fd.batch_functional_dimension(net, x)))
why = fd.explain(net, x)
print(why.explained + why.unexplained)
try:
    why.table
except ModuleNotFoundError as missing:
    print(missing)
assert not [name for name in sys.modules if name.startswith("fdimlib.companion")]
from fdimlib.__main__ import main
try:
    main(["figures"])
except SystemExit as stopped:
    print(stopped)
"""


def test_a_rank_needs_no_package_of_the_companion():
    blocked = modules_of_the_extras()
    assert {"pandas", "matplotlib", "jupyterlab", "submitit", "papermill"} <= blocked
    printed = run([sys.executable, "-c", WITHOUT_THE_EXTRAS, *blocked]).splitlines()
    rank, missing, no_table, refusal = printed
    assert rank == "2" and missing == "15"
    assert no_table.startswith("table: pandas is not installed")
    assert refusal.startswith("figures: needs ") and "pip install 'fdimlib[companion]'" in refusal


HELP = """
import sys
from fdimlib.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    assert stopped.code == 0
print("loaded:", *sorted({name.split(".")[0] for name in sys.modules} - sys.stdlib_module_names))
"""


@pytest.mark.parametrize("command", [[], ["rank"], ["sweep"]])
def test_the_help_loads_nothing_but_python(command):
    """What decides how fast it comes; with torch it would take seconds."""
    printed = run([sys.executable, "-S", "-c", HELP, *command, "--help"],
                  env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert "usage: fdimlib" in printed
    assert printed.splitlines()[-1].split()[1:] == ["__main__", "fdimlib"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The `bin` of an environment with the built wheel, and what its metadata asks for, alone.

    What it asks for is linked from this environment, so that no index is needed; pip, which may not
    look for anything, checks that the wheel's requirements are met.
    """
    folder = tmp_path_factory.mktemp("fresh")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "fdimlib", folder / "fdimlib",
                    ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder])
    (wheel,) = folder.glob("*.whl")
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"])
    python = folder / "venv" / "bin" / "python"
    site = Path(run([python, "-c", "import site; print(site.getsitepackages()[0])"]).strip())
    for found in needed(PROJECT["dependencies"]).values():
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    run([*pip, "--python", python, "install", "--no-index", wheel])
    return python.parent


FROM_PYTHON = """
import importlib.util, pathlib, sys
import fdimlib as fd
assert pathlib.Path(fd.__file__).is_relative_to(sys.prefix), fd.__file__
assert (pathlib.Path(fd.__file__).parent / "py.typed").exists()
present = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
assert not present, present
digits = fd.mnist_sample(20, 10)
net = fd.relu_mlp([784, 5, 10], seed=0)
print(int(fd.batch_functional_dimension(net, digits.x_train, head="softmax")))
"""


@pytest.mark.slow
def test_the_wheel_computes_a_rank_where_there_is_no_jupyter(fresh, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    outside = {"cwd": tmp_path, "env": environment}
    rank = run([fresh / "python", "-c", FROM_PYTHON, *modules_of_the_extras()], **outside)

    digits, net = fd.mnist_sample(20, 10), fd.relu_mlp([784, 5, 10], seed=0)
    save_file(net.state_dict(), tmp_path / "net.safetensors", {"layers": "Linear ReLU Linear"})
    np.save(tmp_path / "x.npy", digits.x_train)
    command = [fresh / "fdimlib", "rank", "net.safetensors", "--inputs", "x.npy"]
    sentence = run([*command, "--head", "softmax"], **outside)
    fields = json.loads(run([*command, "--head", "softmax", "--json"], **outside))

    expected = fd.batch_functional_dimension(net, digits.x_train, head="softmax")
    assert sentence.strip() == str(expected)
    assert fields["value"] == int(rank) == int(expected) and fields["verified"]
