"""Where the shipped weights are."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "scenes"
STUDIO_JUDGE = Path(__file__).parent / "studio_judge"  # reads images of the world `studio`
SECOND_STUDIO_JUDGE = STUDIO_JUDGE / "second"  # so does this one, by a network of another form


def shipped_pipelines() -> dict[str, Path]:
    """The folders of the pipelines that come with the package, by name."""
    indices = sorted(Path(__file__).parent.glob("*/model_index.json"))
    return {index.parent.name: index.parent for index in indices}


def shipped_text_encoders() -> dict[str, Path]:
    """The folders of the text encoders that come with the package, by name.

    "distilled" is that of the pipelines of the built-in worlds. "teacher" is the T5 whose vectors
    it was taught to give, and that the stages were trained with.
    """
    folders = {
        "distilled": WEIGHTS / "text_encoder",
        "teacher": Path(__file__).parent / "text_encoders" / "teacher",
    }
    # the kit of an assignment has not all of them
    return {name: folder for name, folder in folders.items() if folder.is_dir()}
