"""Checkpoints that are complete or absent: written to a temporary folder, verified by checksum,
renamed into place. No pickle anywhere.

A checkpoint is a folder `step_00001000/` with `weights.safetensors`, `ema.safetensors`,
`optimizer.safetensors`, `state.json`, and `manifest.json` (sizes and SHA-256 of the others),
written last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
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
from imagen_mini.utils.precision import DTYPES

MANIFEST = "manifest.json"
FILES = ("weights", "ema", "optimizer")  # of tensors
NAME = re.compile(r"step_\d{8,}")  # of a checkpoint; a copy like step_00000003_best is none
TEMPORARY = re.compile(r"\.step_\d{8,}\.tmp")
# of this process or of its user, who on Windows has no quota
NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
ROOM = 1000  # MB: with so much left, a disk is not full


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir():
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except PermissionError:  # Windows opens no folders, and keeps their names safe by itself
            return
    else:
        descriptor = os.open(path, os.O_RDWR)  # Windows syncs nothing that is open for reading
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained_disk_errors(target: Path) -> Iterator[None]:
    """Errors of the disk within this context name the file or folder, and what to do.

    Raises:
        OSError: Writing failed. The message says that nothing is lost, and, if there was no room,
            how much there was at that moment.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "explained", False):
            raise
        advice = "what was written before is untouched, so mend that and continue with --resume"
        code = error.errno if isinstance(error, OSError) else None
        if code in NO_ROOM or "No space left" in str(error):
            free = _free_megabytes(target)
            advice = (
                f"{'Its disk has' if free < ROOM else 'A quota may be full, as its disk has'} "
                f"{free:,} MB left; what was written before is untouched, so make room and "
                "continue with --resume"
            )
        explained = OSError(f"{target} could not be written: {error}. {advice}")
        explained.explained = True
        raise explained from error


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A new folder to write into, which replaces `target` once all of it is written to disk.

    An error or a kill before that leaves `target` as it was.

    Raises:
        OSError: Writing failed, see `explained_disk_errors`.
    """
    temp = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temp, ignore_errors=True)
    try:
        with explained_disk_errors(target):
            # 1. the caller writes into a temporary folder
            temp.mkdir(parents=True)
            yield temp
            # 2. its files reach the disk
            mode = _mode_of_new_files(temp)
            for file in temp.iterdir():
                os.chmod(file, mode)  # safetensors writes files that only their owner can read
                _sync(file)
            _sync(temp)
            # 3. it takes the place of the target
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temp, target)
            _sync(target.parent)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise


def _mode_of_new_files(folder: Path) -> int:
    """The permissions that this process gives to new files."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode


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
        FloatingPointError: A tensor is not finite. Nothing is written.
    """
    for name, values in tensors.items():
        if bad := [k for k, v in values.items() if not torch.isfinite(v).all()]:
            raise FloatingPointError(
                f"step {step}: {len(bad)} tensors of {name} are not finite, the first is "
                f"{bad[0]!r}. No checkpoint was written of them; continue from the last one with "
                "--resume and a lower learning_rate"
            )
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
    half_written = [p for p in run.iterdir() if TEMPORARY.fullmatch(p.name)]
    for old in (*checkpoints(run)[:-keep], *half_written):
        with explained_disk_errors(old):
            shutil.rmtree(old)
    return target


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    found = [p for p in run.iterdir() if NAME.fullmatch(p.name)] if run.is_dir() else []
    return sorted((p for p in found if p.is_dir()), key=lambda p: int(p.name.split("_")[1]))


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
    for name in (*(f"{name}.safetensors" for name in FILES), "state.json"):
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
            try:
                return *_read(checkpoint), notes
            except (OSError, SafetensorError, ValueError) as error:
                problems = [f"it cannot be read: {error}"]
        notes.append(f"passed over {checkpoint.name}: {'; '.join(problems)}")
    raise FileNotFoundError(f"no usable checkpoint in {run}" + "".join(f"\n  {n}" for n in notes))


def _read(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """Tensors by file name, and the state."""
    state = with_current_names(json.loads((checkpoint / "state.json").read_text()))
    if not isinstance(state, dict) or type(state.get("step")) is not int or state["step"] < 0:
        raise ValueError("state.json names no step")
    return {name: load_file(checkpoint / f"{name}.safetensors") for name in FILES}, state


def check_state(state: dict, run: Path) -> None:
    """Check that the state of a checkpoint is one that `train.train` wrote, as far as its checksum
    cannot tell.

    Args:
        state: From `load_checkpoint`.
        run: The run's folder, for the message.

    Raises:
        ValueError: A field is missing, or holds something else.
    """

    def numbers(values, n: int) -> bool:
        return (
            isinstance(values, list)
            and len(values) == n
            and all(type(v) in (int, float) for v in values)
        )

    data, carried = state.get("data"), state.get("carried")
    dtype, encoder = state.get("text_encoder_dtype", "fp32"), state.get("text_encoder")
    fine = {
        "train": isinstance(state.get("train"), dict),
        "stage": isinstance(state.get("stage"), dict),
        "training_phases": bool(state.get("training_phases")),
        "text_encoder": encoder is None or isinstance(encoder, str),
        "text_encoder_dtype": isinstance(dtype, str) and dtype in DTYPES,
        "data": data is None
        or isinstance(data, dict)
        and (
            data.get("path") is None or {type(data["path"]), type(data.get("fingerprint"))} == {str}
        )
        and isinstance(data.get("caption_column"), str | None),
        "carried": carried is None
        or isinstance(carried, dict)
        and numbers([carried.get("loss")], 1)
        and all(
            isinstance(of := carried.get(name), list) and numbers(of, len(of))
            for name in ("loss_by_bin", "counts_by_bin")
        ),
    }
    if bad := [name for name, ok in fine.items() if not ok]:
        raise ValueError(
            f"the newest checkpoint of {run} is none that can be resumed: its state.json has "
            f"{bad[0]} {state.get(bad[0])!r:.80}"
        )
    check_phases(state["training_phases"], run)


def check_tensors(
    what: str, tensors: dict[str, Tensor], shapes: dict[str, torch.Size]
) -> dict[str, Tensor]:
    """Check that tensors of a checkpoint are those of a network, and finite.

    Args:
        what: What they are, for the message.
        tensors: The tensors by name.
        shapes: The expected shapes by name.

    Returns:
        The tensors.

    Raises:
        ValueError: A tensor is missing, unknown, of another shape, or not finite.
    """
    for key in sorted(set(tensors) ^ set(shapes)):
        where = "is missing" if key in shapes else "belongs to no layer of the network"
        raise ValueError(f"{what}: the tensor {key!r} {where}")
    for key, value in tensors.items():
        if value.shape != shapes[key]:
            raise ValueError(
                f"{what}: the tensor {key!r} is {list(value.shape)}, expected {list(shapes[key])}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{what}: the tensor {key!r} is not finite")
    return tensors


def training_phases(stage: Path) -> list[dict]:
    """The training phases in a stage folder's config.json: stretches of training under one set of
    settings, oldest first. An untrained stage has none.
    """
    record = with_current_names(json.loads((stage / "config.json").read_text()).get("training"))
    phases = record.get("training_phases", []) if isinstance(record, dict) else []
    return check_phases(phases, stage / "config.json")


def age_on_last_data(phases: list[dict]) -> tuple[int, float]:
    """Steps and seconds of training on the data of the last phase; (0, 0.0) without any phase."""
    # a world, or a folder of a name; older phases do not say it, and had the first world
    data = [phase.get("data", {"source": "scenes"}) for phase in phases]
    names = [(of["source"], of.get("name")) for of in data]
    last = [phase for phase, name in zip(phases, names) if name == names[-1]]
    return sum(p["steps"] for p in last), sum((p["seconds"] for p in last), 0.0)


def check_phases(phases: list[dict], where: Path) -> list[dict]:
    """Training phases as they are written by us.

    Raises:
        ValueError: They are not.
    """
    kinds = {"steps": int, "seconds": (int, float), "train": dict}
    if not isinstance(phases, list) or not all(
        isinstance(phase, dict) and all(isinstance(phase.get(k), kind) for k, kind in kinds.items())
        for phase in phases
    ):
        raise ValueError(
            f"{where}: training_phases: expected a list of objects with {', '.join(kinds)}; got "
            f"{phases!r:.80}"
        )
    return phases


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
    """Put tensors from `optimizer_tensors` back into the optimizers, in place.

    Raises:
        ValueError: They are the state of other optimizers or of another network. The fused kernels
            of torch would take them all the same, and read and write beside them.
    """
    states: dict[str, dict[int, dict[str, Tensor]]] = {which: {} for which in optimizers}
    for key, value in tensors.items():
        which, number, name = (*key.split("."), "", "")[:3]
        if which not in optimizers or not number.isdecimal() or not torch.isfinite(value).all():
            raise ValueError(
                f"{key!r} is no finite state of the optimizers {', '.join(optimizers)}"
            )
        states[which].setdefault(int(number), {})[name] = value
    for which, optimizer in optimizers.items():
        _check_state(which, optimizer, states[which])
        optimizer.load_state_dict(
            {"state": states[which], "param_groups": optimizer.state_dict()["param_groups"]}
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


def _check_state(
    which: str, optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]
) -> None:
    """ValueError unless the state is that of the optimizer's parameters, in number and shape."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if unknown := sorted(set(state) - set(range(len(params)))):
        raise ValueError(f"{which} has no parameter {unknown[0]}: it has {len(params)}")
    if state and len(state) < len(params):
        raise ValueError(f"{which} has a state of {len(state)} of its {len(params)} parameters")
    for number, slots in state.items():
        shape = params[number].shape
        expected = {
            "muon": {"momentum"},
            "adamw": {"step", "exp_avg", "exp_avg_sq"},
            "adafactor": {"step", *(("row_var", "col_var") if len(shape) > 1 else ("variance",))},
        }[which]
        if set(slots) != expected:
            raise ValueError(
                f"{which}.{number} holds {', '.join(sorted(slots))}; expected "
                f"{', '.join(sorted(expected))}"
            )
        for name, value in slots.items():
            fits = {
                "step": value.numel() == 1,
                "row_var": value.shape == (*shape[:-1], 1),
                "col_var": value.shape == (*shape[:-2], 1, *shape[-1:]),
            }.get(name, value.shape == shape)
            if not fits:
                raise ValueError(
                    f"{which}.{number}.{name} is {list(value.shape)}, its parameter {list(shape)}"
                )
