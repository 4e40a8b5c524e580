"""Configurations: dataclasses from dictionaries and from `key=value`, names, types and ranges
checked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from functools import cache

# Settings that files and commands may still call by an older name, and their current names.
RENAMED = {
    # StageConfig
    "attend_each": "attention_every_block",
    "emb_width": "emb_dim",
    "head_width": "head_dim",
    "spacing": "timestep_spacing",
    # TrainConfig
    "accumulate": "gradient_accumulation_steps",
    "clip": "max_grad_norm",
    "counts": "object_count_weights",
    "drop_pooled": "pooled_drop_prob",
    "drop_text": "cond_drop_prob",
    "mistakes": "contradiction_prob",
    "rate_schedule": "lr_schedule",
    "twins": "equivalent_prob",
    "workers": "num_workers",
}

# Fields of checkpoints, logs and config.json, likewise.
RENAMED_FIELDS = {
    "from_leg": "from_phase",
    "legs": "training_phases",
    "level_counts": "counts_by_bin",
    "level_losses": "loss_by_bin",
    "pictures": "images",
    "pictures_per_second": "images_per_second",
    "waited": "data_wait_share",
}


@dataclasses.dataclass(frozen=True)
class Range:
    """Which values a number of a configuration may have. It stands beside its field:

        max_grad_norm: Annotated[float, Range(above=0, high=1e9)] = 1.0

    NaN and the infinities are in no range. For a list it holds of each number, and None is allowed
    where the field allows it.

    Args:
        low: The smallest value allowed.
        high: The largest value allowed.
        above: All values allowed are larger.
        below: All values allowed are smaller.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value) -> str | None:
        """What is expected instead of a value; None: it is in the range."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return "a number"
        if not math.isfinite(value):
            return "a finite number"
        if self.low is not None and value < self.low:
            return f"at least {self.low:,}"
        if self.above is not None and value <= self.above:
            return f"above {self.above:,}"
        if self.high is not None and value > self.high:
            return f"at most {self.high:,}"
        if self.below is not None and value >= self.below:
            return f"below {self.below:,}"
        return None


@cache
def _ranges(cls) -> dict[str, Range]:
    """The ranges that stand beside the fields of a dataclass."""
    return {
        name: extra
        for name, hint in typing.get_type_hints(cls, include_extras=True).items()
        for extra in getattr(hint, "__metadata__", ())
        if isinstance(extra, Range)
    }


def check_ranges(config) -> None:
    """Check all numbers of a dataclass that have a `Range`. Call it in `__post_init__`.

    Raises:
        ValueError: A number is out of its range. The message names the field.
    """
    for name, allowed in _ranges(type(config)).items():
        value = getattr(config, name)
        for number in value if isinstance(value, (tuple, list)) else [value]:
            if number is not None and (expected := allowed.problem(number)):
                raise ValueError(f"{name} must be {expected}; got {value!r}")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} {value!r}; expected one of {', '.join(allowed)}")


def renamed(values: dict, names) -> dict:
    """`values` with the current names of settings.

    Args:
        values: Settings by name.
        names: The names that exist. An old name among them stays.

    Raises:
        ValueError: A setting is given by both its names.
    """
    out = {}
    for name, value in values.items():
        new = RENAMED.get(name, name)
        new = new if new in names and name not in names else name
        if new in out:
            raise ValueError(f"{name!r} and {new!r} are two names of one setting; give one of them")
        out[new] = value
    return out


def with_current_names(record):
    """A record of a training run, as JSON holds it, with the current names of fields and settings.

    Args:
        record: Of a checkpoint's state.json, a line of log.jsonl or a config.json's "training".
            Dictionaries and lists in it are searched as well.
    """
    if isinstance(record, dict):
        names = RENAMED | RENAMED_FIELDS
        return {names.get(k, k): with_current_names(v) for k, v in record.items()}
    return [with_current_names(v) for v in record] if isinstance(record, list) else record


def to_dict(config) -> dict:
    """A dataclass as a dictionary for JSON; the inverse of `from_dict`."""
    return dataclasses.asdict(config)


def from_dict(cls, values: dict):
    """A dataclass from a dictionary, as read from JSON. Old names of settings are accepted.

    Args:
        cls: The dataclass.
        values: Its fields. Fields with a default may be missing.

    Raises:
        ValueError: A name is unknown, or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(
            f"{cls.__name__}: expected an object with named fields; got {type(values).__name__}"
        )
    hints = typing.get_type_hints(cls)
    values = renamed(values, hints)
    unknown = set(values) - set(hints)
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no {', '.join(map(repr, sorted(unknown)))}; it has "
            f"{', '.join(hints)}"
        )
    return cls(
        **{
            name: _typed(f"{cls.__name__}.{name}", hints[name], value)
            for name, value in values.items()
        }
    )


def _typed(name: str, hint, value):
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value)
    if origin in (typing.Union, types.UnionType):
        options = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None else _typed(name, options[0], value)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name}: expected a list; got {value!r}")
        return tuple(_typed(name, typing.get_args(hint)[0], v) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or isinstance(value, bool) and hint is not bool:
        raise ValueError(f"{name}: expected {hint.__name__}; got {value!r}")
    return value


def override(config, assignments: list[str]):
    """Change a configuration by strings, as on the command line.

    Args:
        config: A dataclass.
        assignments: `key=value`, with dots for nested fields (`unet.channels=[48,96,144]`). Values
            are JSON, or plain words. Old names of settings are accepted.

    Raises:
        ValueError: A name is unknown, or a value has the wrong type.
    """
    values = to_dict(config)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} is no override; expected key=value")
        *parents, last = key.split(".")
        target = values
        for parent in parents:
            target = target.get(parent)
            if not isinstance(target, dict):
                raise ValueError(f"{key!r}: {type(config).__name__} has no group {parent!r}")
        last = RENAMED.get(last, last) if last not in target else last
        if last not in target:
            raise ValueError(
                f"unknown setting {key!r}; {'.'.join(parents) or type(config).__name__} has "
                f"{', '.join(target)}"
            )
        try:
            target[last] = json.loads(text)
        except json.JSONDecodeError:
            target[last] = text
    return from_dict(type(config), values)
