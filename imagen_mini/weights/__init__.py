"""Where the shipped weights are."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "scenes"
STUDIO_JUDGE = Path(__file__).parent / "studio_judge"  # reads images of the world `studio`
