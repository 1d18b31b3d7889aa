"""The companion: digits, training, experiments, figures and claims, on the instrument's ground."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""The clone that holds notebooks/ and figures/, where the package lies in one (`make`)."""
