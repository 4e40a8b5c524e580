"""A stage on disk: config.json and safetensors, in shards if large."""

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
    """Write a stage: its weights, in shards if they are large, and `config.json` with its
    configuration and how it was trained.
    """
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    save_torch_state_dict(
        {k: v.detach().cpu() for k, v in stage.net.state_dict().items()},
        folder,
        max_shard_size=MAX_SHARD,
    )
    for file in folder.glob("model*.safetensors"):
        file.chmod(0o644)
    (folder / "config.json").write_text(
        json.dumps({"stage": to_dict(stage.config), "training": training or {}}, indent=1) + "\n"
    )


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json`
    names, in float32.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is no index of shards: {error!r}") from error
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
    return {k: v.float() for k, v in weights.items()}


def load_stage(folder: str | Path) -> DiffusionStage:
    """Read a stage folder as `save_stage` writes it. Every way in which it can be wrong is a
    ValueError or FileNotFoundError.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no stage: it has no config.json")
    try:
        config = from_dict(StageConfig, json.loads((folder / "config.json").read_text())["stage"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is no stage configuration: {error}") from error
    weights = load_weights(folder)
    # nothing is allocated for a configuration that the weights do not fit
    with torch.device("meta"):
        expected = DiffusionStage(config).net.state_dict()
    wrong = sorted(set(weights) ^ set(expected)) or [
        k for k in expected if weights[k].shape != expected[k].shape
    ]
    if wrong:
        raise ValueError(
            f"{folder}: the weights are not those of config.json: {len(wrong)} tensors differ, "
            f"the first is {wrong[0]!r}"
        )
    stage = DiffusionStage(config)
    stage.net.load_state_dict(weights)
    return stage.eval()
