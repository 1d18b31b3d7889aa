"""The companion: digits, training, experiments, figures and claims, on the instrument's ground."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""The clone that holds notebooks/ and figures/, where the package lies in one (`make`)."""

BUILD_VARIABLE = "FDIMLIB_BUILD"
FIGURES_VARIABLE = "FDIMLIB_FIGURES"


def _home() -> Path:
    """The clone; for a package that was installed without one, the working directory."""
    return REPOSITORY if (REPOSITORY / "notebooks").is_dir() else Path.cwd()


def build_folder() -> Path:
    """For all that runs write: records, networks, executed notebooks, figures that differ.

    It is named by FDIMLIB_BUILD, which `--build` sets, so that notebooks read the same records as
    the command that runs them; else build/ in the clone.
    """
    named = os.environ.get(BUILD_VARIABLE)
    return Path(named).expanduser().resolve() if named else _home() / "build"


def figures_folder() -> Path:
    """The published figures: the folder FDIMLIB_FIGURES, else figures/ in the clone."""
    named = os.environ.get(FIGURES_VARIABLE)
    return Path(named).expanduser().resolve() if named else _home() / "figures"
