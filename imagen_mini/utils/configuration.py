"""Configurations: dataclasses from dictionaries and from `key=value`, with checked names and types."""

from __future__ import annotations

import dataclasses
import json
import types
import typing


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r}; expected one of {', '.join(allowed)}")


# Settings that files and commands may still call by an older name, and what they are called now.
RENAMED = {
    "attend_each": "attention_every_block",
    "emb_width": "emb_dim",
    "head_width": "head_dim",
}


def renamed(values: dict, names) -> dict:
    """`values` with today's names of settings; ValueError if one is given by both its names."""
    out = {}
    for name, value in values.items():
        new = RENAMED.get(name, name)
        new = new if new in names and name not in names else name
        if new in out:
            raise ValueError(f"{name!r} and {new!r} are two names of one setting; give one of them")
        out[new] = value
    return out


def to_dict(config) -> dict:
    return dataclasses.asdict(config)


def from_dict(cls, values: dict):
    """A dataclass from a dictionary as JSON gives it. Unknown names and wrong types are errors that
    say so.
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
    """Apply `key=value` strings, dotted for nested fields (`unet.channels=[48,96,144]`); values are
    JSON, or plain words.
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
