"""Where the shipped weights are."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "scenes"
STUDIO_JUDGE = Path(__file__).parent / "studio_judge"  # reads images of the world `studio`


def shipped_pipelines() -> dict[str, Path]:
    """The folders of the pipelines that come with the package, by name."""
    indices = sorted(Path(__file__).parent.glob("*/model_index.json"))
    return {index.parent.name: index.parent for index in indices}


def shipped_text_encoders() -> dict[str, Path]:
    """The folders of the text encoders that come with the package beside those of the pipelines, by
    name.
    """
    configs = sorted(Path(__file__).parent.glob("text_encoders/*/config.json"))
    return {config.parent.name: config.parent for config in configs}
