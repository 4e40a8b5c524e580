"""Checkpoints that are complete or absent: written to a temporary folder, verified by checksum,
renamed into place. No pickle anywhere.

A checkpoint is a folder `step_00001000/` with `weights.safetensors`, `ema.safetensors`,
`optimizer.safetensors`, `state.json`, and `manifest.json` (sizes and SHA-256 of the others),
written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imagen_mini.training.distributed import distribute_like
from imagen_mini.utils.configuration import with_current_names

MANIFEST = "manifest.json"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A new folder to write into, which replaces `target` once all of it is written to disk.

    An error or a kill before that leaves `target` as it was.

    Raises:
        OSError: Writing failed. The message says that nothing is lost, and how much room there is.
    """
    temp = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temp, ignore_errors=True)
    try:
        # 1. the caller writes into a temporary folder
        temp.mkdir(parents=True)
        yield temp
        # 2. its files reach the disk
        for file in temp.iterdir():
            os.chmod(file, 0o644)  # safetensors writes files that only their owner can read
            _sync(file)
        _sync(temp)
        # 3. it takes the place of the target
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temp, target)
        _sync(target.parent)
    except BaseException as error:
        shutil.rmtree(temp, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise OSError(
                f"{target} could not be written: {error}. Its disk has "
                f"{_free_megabytes(target):,} MB left; what was written before is untouched, so "
                "make room and continue with --resume"
            ) from error
        raise


def _free_megabytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free // 10**6


def save_checkpoint(
    run: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict, keep: int = 2
) -> Path:
    """Write a checkpoint of a run, and remove old ones once the new one is verified.

    Args:
        run: The run's folder.
        step: Steps done.
        tensors: Tensors by file name (without ending): "weights", "ema" and "optimizer".
        state: Everything else, for JSON.
        keep: How many checkpoints remain.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: It could not be written, or not be read back as it was.
    """
    target = run / f"step_{step:08d}"
    # 1. write tensors, state, and the manifest of both
    with atomic_directory(target) as temp:
        for name, values in tensors.items():
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in values.items()},
                temp / f"{name}.safetensors",
            )
        (temp / "state.json").write_text(json.dumps(state, indent=1))
        manifest = {
            file.name: {"size": file.stat().st_size, "sha256": _sha256(file)}
            for file in sorted(temp.iterdir())
        }
        (temp / MANIFEST).write_text(json.dumps(manifest, indent=1))
    # 2. read it back
    if problems := verify_checkpoint(target):
        raise OSError(
            f"{target} was not written as it should be ({'; '.join(problems)}): the disk may be "
            "failing. Older checkpoints were kept"
        )
    # 3. remove older ones, and what a kill left half written
    for old in (*checkpoints(run)[:-keep], *run.glob(".step_*.tmp")):
        shutil.rmtree(old)
    return target


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    return sorted(p for p in run.glob("step_*") if p.is_dir()) if run.is_dir() else []


def verify_checkpoint(checkpoint: Path) -> list[str]:
    """The problems of a checkpoint; none if every file is there, with its size and checksum."""
    try:
        manifest = {
            name: (entry["size"], entry["sha256"])
            for name, entry in json.loads((checkpoint / MANIFEST).read_text()).items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return [f"{checkpoint / MANIFEST} cannot be read: {error!r}"]
    problems = []
    for name in ("weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"):
        if name not in manifest:
            problems.append(f"{name} is not in the manifest")
    for name, (size, checksum) in manifest.items():
        file = checkpoint / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{name} has {file.stat().st_size} bytes, expected {size}")
        elif _sha256(file) != checksum:
            problems.append(f"{name} has the expected size but not the expected checksum")
    return problems


def load_checkpoint(run: Path) -> tuple[dict[str, dict[str, Tensor]], dict, list[str]]:
    """Load the newest checkpoint of a run that verifies.

    Returns:
        Tensors by file name ("weights", "ema", "optimizer"); the state, with the current names of
        its fields; and notes on newer checkpoints that are broken.

    Raises:
        FileNotFoundError: The run has no usable checkpoint.
    """
    notes = []
    for checkpoint in reversed(checkpoints(run)):
        problems = verify_checkpoint(checkpoint)
        if not problems:
            tensors = {
                name: load_file(checkpoint / f"{name}.safetensors")
                for name in ("weights", "ema", "optimizer")
            }
            state = with_current_names(json.loads((checkpoint / "state.json").read_text()))
            return tensors, state, notes
        notes.append(f"passed over {checkpoint.name}: {'; '.join(problems)}")
    raise FileNotFoundError(f"no usable checkpoint in {run}" + "".join(f"\n  {n}" for n in notes))


def training_phases(stage: Path) -> list[dict]:
    """The training phases in a stage folder's config.json: stretches of training under one set of
    settings, oldest first. An untrained stage has none.
    """
    record = json.loads((stage / "config.json").read_text()).get("training") or {}
    return with_current_names(record).get("training_phases", [])


def optimizer_tensors(optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state as named tensors: '<optimizer>.<parameter number>.<name>'."""
    return {
        f"{which}.{i}.{name}": value
        for which, optimizer in optimizers.items()
        for i, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }


def restore_optimizers(
    optimizers: dict[str, torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    """Put tensors from `optimizer_tensors` back into the optimizers, in place."""
    for which, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            of, number, name = key.split(".")
            if of == which:
                state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )
        # in the memory layout of their parameter, which fused kernels rely on
        for p, slots in optimizer.state.items():
            slots.update(
                {
                    name: torch.empty_like(p).copy_(distribute_like(v, p))
                    for name, v in slots.items()
                    if v.shape == p.shape
                }
            )
