"""Which text encoder a run or a stage was trained with, so that nobody has to name it again."""

from __future__ import annotations

import json
from pathlib import Path

from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import checkpoints
from imagen_mini.weights import WEIGHTS, shipped_text_encoders


def text_encoder_of(folder: Path) -> str | None:
    """The text encoder that a run, a stage or a pipeline was trained with.

    Args:
        folder: Of a run, of a stage (a run's or a pipeline's), or of a pipeline.

    Returns:
        A folder or a hub name; None if nothing is known, as of a run with the shipped one.
    """
    # 1. a pipeline has its own
    for pipeline in (folder, folder.parent):
        if (pipeline / "model_index.json").is_file() and (pipeline / "text_encoder").is_dir():
            return str(pipeline / "text_encoder")
    # 2. a stage says it in its configuration
    for stage in (folder / "stage", folder):
        named = _named(stage / "config.json", "training")
        if named is not None:
            return named
    # 3. a run says it in its newest checkpoint
    for run in (folder, folder.parent):
        for checkpoint in reversed(checkpoints(run)):
            named = _named(checkpoint / "state.json")
            if named is not None:
                return named
    return None


def find_text_encoder(named: str | Path | None, *folders: Path) -> str:
    """The text encoder to load: the one that is named, else that of the first folder that knows
    its own, else the shipped one.

    Args:
        named: A folder or a hub name, from the command line. None: nothing was named.
        *folders: As for `text_encoder_of`.

    Returns:
        A folder or a hub name, as `TextEncoder.from_pretrained` takes it.

    Raises:
        FileNotFoundError: The one that a folder remembers is not there any more.
    """
    if named is not None:
        return str(named)
    for folder in folders:
        remembered = text_encoder_of(folder)
        if remembered is None:
            continue
        if Path(remembered).is_absolute() and not Path(remembered).is_dir():
            raise FileNotFoundError(
                f"{folder} was trained with the text encoder {remembered}, which is not there any "
                "more; say where it is with --text-encoder"
            )
        return remembered
    return str(WEIGHTS / "text_encoder")


def shipped_encoder_with(digest: str | None) -> str | None:
    """The name of the shipped text encoder of this digest. A run that names none was trained with
    the one that pipelines had at the time, and is resumed with it.

    Args:
        digest: As of `TextEncoder.weights_digest`; None: nothing is known.

    Returns:
        A name that `TextEncoder.from_pretrained` takes; None: it is that of the pipelines, or none.
    """
    for name, folder in shipped_text_encoders().items():
        if digest is not None and TextEncoder.from_pretrained(folder).weights_digest() == digest:
            return None if folder == WEIGHTS / "text_encoder" else name
    return None


def _named(file: Path, *keys: str) -> str | None:
    """The text encoder that a JSON file names, under some keys; None: it names none."""
    try:
        values = json.loads(file.read_text())
        for key in keys:
            values = values[key]
        named = values.get("text_encoder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return named if isinstance(named, str) else None
