"""Settings for notebooks under nbval.

Figures go to a scratch folder; progress and warnings on stderr are not compared.
"""

import os
import tempfile
from pathlib import Path


def pytest_configure(config):
    """Set before any kernel starts, so that kernels inherit it (nbval's cells know no fixtures)."""
    scratch = tempfile.TemporaryDirectory(prefix="figures-")
    os.environ["FDIMLIB_FIGURES"] = scratch.name
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # this clone's fdimlib
    config.add_cleanup(scratch.cleanup)


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook
        collector.skip_compare += ("stderr",)
