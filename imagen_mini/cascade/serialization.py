"""A stage on disk: config.json and safetensors, in shards if they are large.

Nothing is unpickled, and nothing is allocated before the weights are known to fit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from imagen_mini.cascade.config import StageConfig
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.utils.configuration import from_dict, to_dict

T = TypeVar("T")

MAX_SHARD = "14MB"  # no file of a pipeline is larger


def save_stage(stage: DiffusionStage, folder: Path, training: dict | None = None) -> None:
    """Write a stage as a folder: its weights, and `config.json`.

    Args:
        stage: The stage to write.
        folder: Where to; made if it does not exist. Weights that are there are replaced.
        training: How the stage was trained; it goes into config.json. None: nothing is known.
    """
    from huggingface_hub import save_torch_state_dict

    # 1. the weights; a different number of shards would leave old ones behind
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    save_torch_state_dict(
        {k: v.detach().cpu() for k, v in uncompiled_names(stage.net.state_dict()).items()},
        folder,
        max_shard_size=MAX_SHARD,
    )
    for file in folder.glob("model*.safetensors"):
        file.chmod(0o644)
    # 2. the configuration
    (folder / "config.json").write_text(
        json.dumps({"stage": to_dict(stage.config), "training": training or {}}, indent=1) + "\n"
    )


def uncompiled_names(weights: dict[str, T]) -> dict[str, T]:
    """Weights under the names that they had before `torch.compile` wrapped modules."""
    return {name.replace("_orig_mod.", ""): weight for name, weight in weights.items()}


def weight_files(folder: Path) -> list[Path]:
    """The files of a stage's weights.

    Args:
        folder: Holds `model.safetensors`, or shards and `model.safetensors.index.json`, which
            names them.

    Raises:
        FileNotFoundError: A file of weights is missing.
        ValueError: The index cannot be read.
    """
    # 1. one file, or those that the index names
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{index} is no index of shards: {error!r:.200}") from error
    # 2. a name that leads out of the folder, or is none, is refused
    for name in names:
        try:
            found = Path(name).name == name and (folder / name).is_file()
        except (OSError, TypeError, ValueError):
            found = False
        if not found:
            raise FileNotFoundError(f"{folder} is no stage: it has no {name!s:.80}")
    return [folder / name for name in names]


def _read_weights(files: list[Path], tensors: bool) -> dict[str, Any]:
    """The shapes of the weights in files, which costs nothing, or the tensors, in float32."""
    found: dict[str, Any] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():
                    found[key] = (
                        file.get_tensor(key).float()
                        if tensors
                        else torch.Size(file.get_slice(key).get_shape())
                    )
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read ({error}); fetch or train it again") from error
    return uncompiled_names(found)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a stage's folder, in float32.

    Args:
        folder: As for `weight_files`.

    Returns:
        The tensors by name.

    Raises:
        FileNotFoundError: A file of weights is missing.
        ValueError: A file cannot be read, or a weight is not finite.
    """
    weights = _read_weights(weight_files(folder), tensors=True)
    if bad := [key for key, weight in weights.items() if not torch.isfinite(weight).all()]:
        raise ValueError(
            f"{folder}: {len(bad)} weights are not finite, the first is {bad[0]!r}; fetch or train "
            "the stage again"
        )
    return weights


def load_stage(folder: str | Path) -> DiffusionStage:
    """Read a stage from a folder, as `save_stage` writes it.

    Args:
        folder: The folder of one stage.

    Returns:
        The stage in evaluation mode, on the CPU, in float32.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The configuration is none, a file cannot be read, or the weights do not fit
            the configuration or are not finite.
    """
    # 1. the configuration
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no stage: it has no config.json")
    try:
        config = from_dict(StageConfig, json.loads((folder / "config.json").read_text())["stage"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / 'config.json'} is no stage configuration: {error}") from error
    # 2. do the weights fit it? Nothing is allocated before that is known
    shapes = _read_weights(weight_files(folder), tensors=False)
    with torch.device("meta"):
        expected = DiffusionStage(config).net.state_dict()
    misfits = sorted(set(shapes) ^ set(expected)) or [
        k for k in expected if shapes[k] != expected[k].shape
    ]
    if misfits:
        raise ValueError(
            f"{folder}: the weights are not those of config.json: {len(misfits)} tensors differ, "
            f"the first is {misfits[0]!r}"
        )
    # 3. the stage
    stage = DiffusionStage(config)
    stage.net.load_state_dict(load_weights(folder))
    return stage.eval()


def training_record(folder: Path) -> dict:
    """What the folder of a stage says of its training; empty if it says nothing."""
    try:
        return dict(json.loads((folder / "config.json").read_text())["training"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def trained_on_folder(folder: Path) -> bool:
    """True for a stage whose last training was on a folder of images, and not on a built-in world.

    Args:
        folder: The folder of one stage. What it does not say of its training counts as False.
    """
    try:
        phases = training_record(folder)["training_phases"]
        return phases[-1]["data"]["source"] == "folder"
    except (LookupError, TypeError):
        return False
