"""The companion: digits, training, experiments, figures and claims, on the instrument's ground."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""The clone that holds notebooks/ and figures/, where the package lies in one (`make`)."""

BUILD_VARIABLE = "FDIMLIB_BUILD"


def build_folder() -> Path:
    """For what is neither a figure nor a table, records and executed notebooks.

    It is named by FDIMLIB_BUILD, which `--build` sets, so that notebooks read the same records as
    the command that runs them; else build/ in the clone.
    """
    named = os.environ.get(BUILD_VARIABLE)
    return Path(named).expanduser().resolve() if named else REPOSITORY / "build"
