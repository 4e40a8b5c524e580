"""Measurements on disk, one a line: a long run that is interrupted goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Records:
    """What was measured so far, by what it was measured of.

        records = Records(folder / "edits.jsonl")
        for seed in seeds:
            if {"seed": seed} not in records:
                records.add({"seed": seed}, score=measure(seed))

    Each line of the file is a JSON object: a key, which says what was measured, and the values. It
    is written at once, so that an interruption loses nothing but the measurement under way.

    Args:
        path: The file. What it holds already is read; a last line that was cut off is removed.

    Raises:
        ValueError: A line that is no record.
    """

    def __init__(self, path: Path):
        self.path = path
        self._values: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self._read()

    def _read(self) -> None:
        whole, _, cut_off = self.path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                self._keep(record["key"], record["values"])
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{self.path}, line {number}: expected a record of a former run, got "
                    f"{line[:60].decode(errors='replace')!r}; remove the file, or write to another "
                    "folder"
                ) from None
        if cut_off:
            os.truncate(self.path, len(whole) + 1 if whole else 0)

    def _keep(self, key: dict[str, Any], values: dict[str, Any]) -> None:
        name = json.dumps(key, sort_keys=True)
        self._keys[name], self._values[name] = key, values

    def __contains__(self, key: dict[str, Any]) -> bool:
        return json.dumps(key, sort_keys=True) in self._values

    def __getitem__(self, key: dict[str, Any]) -> dict[str, Any]:
        return self._values[json.dumps(key, sort_keys=True)]

    def __len__(self) -> int:
        return len(self._values)

    def add(self, key: dict[str, Any], **values: Any) -> None:
        """Keep a measurement, and write it.

        Args:
            key: What was measured; JSON.
            **values: What was found; JSON.
        """
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, "values": values}) + "\n")
        self._keep(key, values)

    def of(self, **key: Any) -> list[dict[str, Any]]:
        """The values of all measurements whose key has these entries, in the order in which they
        were added.
        """
        return [
            values
            for name, values in self._values.items()
            if all(self._keys[name].get(entry) == value for entry, value in key.items())
        ]
