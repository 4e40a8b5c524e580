"""The folder of a pipeline: where it is, and its index.

    folder/model_index.json     the index: the version of the format, and the names of the stages
    folder/text_encoder/        the text encoder, or the name of a package that has it
    folder/base/, ...           the stages, each in a folder of its name

`cascade/serialization.py` reads and writes the stages.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path

from imagen_mini.text.packaged import PACKAGED_ENCODER
from imagen_mini.weights import shipped_pipelines

FORMAT_VERSION = 1


def write_stage_names(folder: Path, names: list[str]) -> None:
    """Write the index of a pipeline with these stages."""
    index = {"pipeline": "ImagenPipeline", "format_version": FORMAT_VERSION, "stages": names}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")


def read_stage_names(folder: Path) -> list[str]:
    """The names of the stages in the folder of a pipeline, from its index.

    Raises:
        FileNotFoundError: It is no such folder, or has no text encoder.
        ValueError: The index is not what it should be.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"{folder} is no pipeline: {_what_it_is_instead(folder)}")
    try:
        values = json.loads(index.read_text())
        version, names = values["format_version"], values["stages"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is not the index of a pipeline: {error!r}") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{index} has format version {version}; this code reads {FORMAT_VERSION}. "
            "Update imagen_mini"
        )
    if not isinstance(names, list) or not all(
        isinstance(n, str) and n.isidentifier() for n in names
    ):
        raise ValueError(f"{index}: stages must be a list of folder names; got {names!r}")
    encoder = folder / "text_encoder"
    if not any((encoder / name).is_file() for name in ("config.json", PACKAGED_ENCODER)):
        raise FileNotFoundError(f"{folder} has no text_encoder/config.json")
    return names


def find_folder(path: str | Path) -> Path:
    """The folder that a path or a hub id names; from the hub it is fetched.

    Args:
        path: As `ImagenPipeline.from_pretrained` takes it.

    Raises:
        FileNotFoundError: There is none.
    """
    # 1. on this machine
    shipped = shipped_pipelines()
    if str(path) in shipped:
        return shipped[str(path)]
    folder = Path(path).expanduser()
    if folder.exists():
        return folder
    # 2. a name that can be no hub id, or one of a folder beside which others lie
    names = ", ".join(map(repr, shipped))
    expected = f"expected {names}, a folder, or a hub id like 'name/model'"
    owner, _, model = str(path).partition("/")
    if isinstance(path, Path) or not owner.strip(".~") or not model or "/" in model:
        raise FileNotFoundError(f"no pipeline at {folder}: {expected}{_similar(folder)}")
    if Path(owner).is_dir():
        raise FileNotFoundError(
            f"no pipeline at {folder}: there is a folder {owner}, but no {model} in it"
            f"{_similar(folder)}; {expected}"
        )
    # 3. on the hub, which raises errors of many libraries
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.md"])
        )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"no pipeline {path}: there is no such folder in {Path.cwd()}, and it could not be "
            f"fetched from the Hugging Face hub ({type(error).__name__}: {reason})"
        ) from error


def _similar(folder: Path) -> str:
    """A hint at a folder beside this one whose name is nearly the same."""
    try:
        names = [other.name for other in folder.parent.iterdir()]
    except OSError:
        return ""
    near = get_close_matches(folder.name, names, n=1)
    return f"; did you mean {folder.parent / near[0]}?" if near else ""


def _what_it_is_instead(folder: Path) -> str:
    """Why a folder without model_index.json is no pipeline, and what makes one of it."""
    if folder.is_file():
        return "it is a file"
    make = (
        "make a pipeline of it: python -m train.export_pipeline --base BASE_RUN --sr SR_RUN "
        "--out PIPELINE"
    )
    if (folder / "stage" / "config.json").is_file():
        return f"it is the folder of a training run; {make}"
    if (folder / "log.jsonl").exists() or any(folder.glob("step_*")):
        return f"it is the folder of a training run that has saved no stage yet; later {make}"
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        config = None
    if isinstance(config, dict) and "stage" in config:
        return f"it is the folder of one stage; {make}"
    if isinstance(config, dict) and "model_type" in config:
        return "it is a text encoder, which is one part of a pipeline"
    inside = [child.parent for child in sorted(folder.glob("*/model_index.json"))]
    if inside:
        return f"it has no model_index.json, but {inside[0]} has one"
    return "it has no model_index.json"
