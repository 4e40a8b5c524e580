"""Where the shipped weights are."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "scenes"
