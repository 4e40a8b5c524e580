"""Checkpoints that are whole or not there: written aside, verified by checksum, renamed into place.
No pickle anywhere.

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
    """A new folder to write into. It takes the place of `target`, synced to the disk, once all is
    written; an error or a kill before that leaves `target` as it was. An OSError says that nothing
    is lost, and how much room there is.
    """
    aside = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        for file in aside.iterdir():
            os.chmod(file, 0o644)  # safetensors writes files that only their owner can read
            _sync(file)
        _sync(aside)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
        _sync(target.parent)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise OSError(
                f"{target} could not be written: {error}. Its disk has "
                f"{_free_megabytes(target):,} MB left; "
                "what was written before is untouched, so make room and go on "
                "with --resume"
            ) from error
        raise


def _free_megabytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free // 10**6


def save_checkpoint(
    run: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict, keep: int = 2
) -> Path:
    """Write checkpoint `step` of a run: `tensors` by file name (without ending), `state` as JSON.

    Older ones but `keep`, and what a kill left half written, are removed once the new one is found
    whole.
    """
    target = run / f"step_{step:08d}"
    with atomic_directory(target) as aside:
        for name, values in tensors.items():
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in values.items()},
                aside / f"{name}.safetensors",
            )
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        manifest = {
            file.name: {"size": file.stat().st_size, "sha256": _sha256(file)}
            for file in sorted(aside.iterdir())
        }
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
    if wrong := verify_checkpoint(target):
        raise OSError(
            f"{target} was not written as it should be ({'; '.join(wrong)}): the disk may be "
            "failing. Older checkpoints were kept"
        )
    for old in (*checkpoints(run)[:-keep], *run.glob(".step_*.tmp")):
        shutil.rmtree(old)
    return target


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    return sorted(p for p in run.glob("step_*") if p.is_dir()) if run.is_dir() else []


def verify_checkpoint(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint; empty if every file is there, of the right size and
    checksum.
    """
    try:
        manifest = {
            name: (of["size"], of["sha256"])
            for name, of in json.loads((checkpoint / MANIFEST).read_text()).items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return [f"{checkpoint / MANIFEST} cannot be read: {error!r}"]
    found = []
    for name in ("weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"):
        if name not in manifest:
            found.append(f"{name} is not in the manifest")
    for name, (size, checksum) in manifest.items():
        file = checkpoint / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif file.stat().st_size != size:
            found.append(f"{name} has {file.stat().st_size} bytes, expected {size}")
        elif _sha256(file) != checksum:
            found.append(f"{name} has the right size and the wrong checksum")
    return found


def load_checkpoint(run: Path) -> tuple[dict[str, dict[str, Tensor]], dict, list[str]]:
    """The newest checkpoint of a run that verifies: tensors by file name, state, and notes on those
    that had to be passed over.
    """
    notes = []
    for checkpoint in reversed(checkpoints(run)):
        wrong = verify_checkpoint(checkpoint)
        if not wrong:
            tensors = {
                name: load_file(checkpoint / f"{name}.safetensors")
                for name in ("weights", "ema", "optimizer")
            }
            return tensors, json.loads((checkpoint / "state.json").read_text()), notes
        notes.append(f"passed over {checkpoint.name}: {'; '.join(wrong)}")
    raise FileNotFoundError(f"no usable checkpoint in {run}" + "".join(f"\n  {n}" for n in notes))


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
    """The inverse of `optimizer_tensors`."""
    for which, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            of, number, name = key.split(".")
            if of == which:
                state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )
        # laid out in memory as their parameter: fused kernels take that for granted
        for p, slots in optimizer.state.items():
            slots.update(
                {
                    name: torch.empty_like(p).copy_(distribute_like(v, p))
                    for name, v in slots.items()
                    if v.shape == p.shape
                }
            )
