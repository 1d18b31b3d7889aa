"""Settings for notebooks under nbval.

What they write goes to a scratch folder, so that they start from no record. Their figures are
compared with the published ones; one that differs prints a line, which no committed notebook has,
so that its cell fails, and the line is told at the end. Progress and warnings on stderr are not
compared.
"""

import os
import tempfile
from pathlib import Path


def pytest_configure(config):
    """Set before any kernel starts, so that kernels inherit it (nbval's cells know no fixtures)."""
    if hasattr(config, "workerinput"):  # of pytest-xdist: it has inherited all this
        return
    workers = getattr(config.option, "numprocesses", None) or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    scratch = tempfile.TemporaryDirectory(prefix="build-")
    os.environ["FDIMLIB_BUILD"] = scratch.name
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # this clone's fdimlib
    config.add_cleanup(scratch.cleanup)


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook
        collector.skip_compare += ("stderr",)


def pytest_terminal_summary(terminalreporter):
    """What nbval does not tell of a figure that differs: where, and both values."""
    for note in sorted(Path(os.environ["FDIMLIB_BUILD"]).glob("figures/*.txt")):
        terminalreporter.write_line(note.read_text(encoding="utf-8").rstrip())
