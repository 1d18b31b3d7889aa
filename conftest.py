"""Settings for notebooks under nbval: figures go to a scratch folder, progress and warnings on stderr are not compared."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def figures_in_scratch_folder(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("FDIMLIB_FIGURES", str(tmp_path_factory.mktemp("figures")))
    yield
    patch.undo()


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook
        collector.skip_compare += ("stderr",)
