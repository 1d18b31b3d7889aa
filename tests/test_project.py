"""The files that tell how to install, run and cite, and that they agree with each other."""

import ast
import re
import shlex
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import fdimlib
import fdimlib.__main__ as command_line

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = {"fdimlib": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
REQUIREMENTS = {group: [Requirement(line) for line in lines] for group, lines in GROUPS.items()}
distributions = cache(packages_distributions)


def test_the_lock_file_pins_every_requirement_exactly_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    pinned = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}
    assert pinned["torch"] == "2.13.0"
    unmet = [str(r) for group in REQUIREMENTS.values() for r in group
             if r.name not in pinned or not r.specifier.contains(pinned[r.name])]
    assert unmet == []


def third_party_imports(path):
    """The distributions whose modules a file imports, at its top or where they are used."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"fdimlib"}
    return {name.lower().replace("_", "-") for module in modules
            for name in distributions()[module]}


OPTIONAL = {"explanation.py": {"pandas"}}  # a table, for those who have it


@pytest.mark.parametrize("folder, groups", [
    ("fdimlib", ["fdimlib"]), ("fdimlib/companion", ["fdimlib", "companion", "cluster"]),
])
def test_what_a_room_imports_is_among_its_requirements(folder, groups):
    declared = {r.name for group in groups for r in REQUIREMENTS[group]}
    imported = {path.name: third_party_imports(path) - OPTIONAL.get(path.name, set())
                for path in (ROOT / folder).glob("*.py")}
    undeclared = {name: found - declared for name, found in imported.items() if found - declared}
    assert set().union(*imported.values()) and undeclared == {}


def test_environment_yml_installs_the_package_with_all_its_extras_and_lists_nothing_else():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    lock, package = pip["pip"]
    assert lock == "--requirement requirements.lock"
    extras = re.fullmatch(r"--editable \.\[(.*)\]", package)[1].split(",")
    assert set(extras) == set(PROJECT["optional-dependencies"])
    assert environment["name"] == PROJECT["name"]


def test_the_readme_says_of_every_requirement_where_it_belongs_and_what_it_is_for():
    listed = {group: set() for group in REQUIREMENTS}
    for packages, group, purpose in re.findall(r"^\| (`.*?) \| `(\w+)` \| (.+) \|$", README,
                                               re.MULTILINE):
        listed[group] |= set(re.findall(r"`([\w-]+)`", packages))
        assert purpose.strip()
    assert listed == {group: {r.name for r in found} for group, found in REQUIREMENTS.items()}


def test_readme_commands_are_real():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(?:.*`)?make (\w+)", README, re.MULTILINE))
    assert {"figures", "test", "lab"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    commands = "".join(content for language, content in blocks if not language)
    calls = re.findall(r"^(?:python -m )?fdimlib ([^\n#]+)", commands, re.MULTILINE)
    assert {shlex.split(call)[0] for call in calls} >= {"rank", "figures", "sweep"}
    for call in calls:
        with pytest.raises(SystemExit) as stopped:
            command_line.main([*shlex.split(call), "--help"])
        assert stopped.value.code == 0, call


def test_the_readme_example_runs_and_prints_what_it_says(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
        promised, printed = re.findall(r"# → (.*)", block), capsys.readouterr().out
        assert promised and [line for line in promised if line not in printed] == []


def test_every_public_name_loads():
    assert [name for name in fdimlib.__all__ if not hasattr(fdimlib, name)] == []


def test_ci_runs_the_readme_test_command():
    text = (ROOT / ".ci/run").read_text(encoding="utf-8")
    script = [line for line in text.splitlines() if not line.startswith("#")]
    assert script == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]


def test_the_citation_names_companion_and_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    paper = citation["references"][0]["title"]
    assert paper.startswith("Geometry-induced Implicit Regularization")


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", text, re.MULTILINE)[0] == PROJECT["version"]
