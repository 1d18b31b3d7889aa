"""The companion: digits, training, experiments, figures and claims, on top of the instrument in `fdimlib`."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""The clone that holds notebooks/ and figures/, where the package was installed from one (`make`, `pip install -e`)."""
