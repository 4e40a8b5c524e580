"""A stage on disk: config.json and safetensors, in shards if they are large.

Nothing is unpickled, and nothing is allocated before the weights are known to fit.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from imagen_mini.cascade.config import StageConfig
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.utils.configuration import from_dict, to_dict

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


def uncompiled_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that they had before `torch.compile` wrapped modules."""
    return {name.replace("_orig_mod.", ""): weight for name, weight in weights.items()}


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a stage's folder, in float32.

    Args:
        folder: Holds `model.safetensors`, or shards and `model.safetensors.index.json`, which
            names them.

    Returns:
        The tensors by name.

    Raises:
        FileNotFoundError: A file of weights is missing.
        ValueError: A file cannot be read.
    """
    # 1. which files: one, or those that the index names
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is no index of shards: {error!r}") from error
    # 2. read them; a name that leads out of the folder is refused
    weights: dict[str, Tensor] = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no stage: it has no {name}")
        try:
            weights |= load_file(folder / name)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{folder / name} cannot be read ({error}); fetch or train it again"
            ) from error
    return {k: v.float() for k, v in uncompiled_names(weights).items()}


def load_stage(folder: str | Path) -> DiffusionStage:
    """Read a stage from a folder, as `save_stage` writes it.

    Args:
        folder: The folder of one stage.

    Returns:
        The stage in evaluation mode, on the CPU, in float32.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The configuration is none, a file cannot be read, or the weights do not fit
            the configuration.
    """
    # 1. the configuration
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no stage: it has no config.json")
    try:
        config = from_dict(StageConfig, json.loads((folder / "config.json").read_text())["stage"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is no stage configuration: {error}") from error
    # 2. the weights; nothing is allocated for a configuration that they do not fit
    weights = load_weights(folder)
    with torch.device("meta"):
        expected = DiffusionStage(config).net.state_dict()
    misfits = sorted(set(weights) ^ set(expected)) or [
        k for k in expected if weights[k].shape != expected[k].shape
    ]
    if misfits:
        raise ValueError(
            f"{folder}: the weights are not those of config.json: {len(misfits)} tensors differ, "
            f"the first is {misfits[0]!r}"
        )
    # 3. the stage
    stage = DiffusionStage(config)
    stage.net.load_state_dict(weights)
    return stage.eval()
