"""Submitted code, run in boxes: the side that is trusted.

A `Sandbox` keeps a `nursery.py` running, hands it boxes, and reads back what came out. Nothing that
comes out is believed to be more than numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import einops
import numpy
import torch
from torch import Tensor

from imagen_mini.course import nursery


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        tensors: What the call returned.
        error: How it ended instead, in words; "" if it returned.
        changed: The names of arguments that it changed.
    """

    tensors: tuple[Tensor, ...] = ()
    error: str = ""
    changed: tuple[str, ...] = ()


class Sandbox:
    """Runs the calls of a question with a package in which one function is a student's.

    Args:
        preload: Libraries that are loaded before anything is locked in.
        seconds: The CPU time of a question.
        megabytes: Its memory beyond that of PyTorch.
        wall: Its time by the clock (default: three times `seconds`, and 5 s).

    Use it in a `with` statement.
    """

    def __init__(
        self,
        preload: Sequence[str] = (),
        seconds: float = 10.0,
        megabytes: int = 1000,
        wall: float | None = None,
    ):
        self.preload, self.seconds, self.megabytes = tuple(preload), seconds, megabytes
        self.wall = 3 * seconds + 5 if wall is None else wall
        self.nursery: subprocess.Popen | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="imagen_mini_grader_"))
        self.cache: dict[str, list[Outcome]] = {}
        self.runs = 0

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(
        self, files: dict[str, str], calls: str, question: str, cases: list[dict]
    ) -> list[Outcome]:
        """Run a question's cases.

        The same files with the same cases are run once.

        Args:
            files: The package in the box: sources by path.
            calls: The source of the assignment's calls.
            question: The name of the function in it.
            cases: The arguments of each call: tensors, numbers, words.

        Returns:
            One outcome for each case.
        """
        described, data = nursery.pack(cases)
        digest = hashlib.sha256(json.dumps([files, calls, question, described]).encode() + data)
        key = digest.hexdigest()
        if key not in self.cache:
            self.runs += 1
            box, out = self.folder / f"box{self.runs}", self.folder / f"out{self.runs}"
            # 1. The box. All of it can be read by anybody and written by nobody else.
            for path, text in files.items():
                target = box / "package" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            (box / "calls.py").write_text(calls, encoding="utf-8")
            (box / "cases.json").write_text(json.dumps(described), encoding="utf-8")
            (box / "cases.bin").write_bytes(data)
            for folder, _, names in os.walk(box):
                os.chmod(folder, 0o755)
                for name in names:
                    os.chmod(os.path.join(folder, name), 0o644)
            # 2. The run, and its results.
            ended = self._ask(box, out, question)
            self.cache[key] = self._read(out, ended, len(cases))
            shutil.rmtree(box, ignore_errors=True)
            out.unlink(missing_ok=True)
        return self.cache[key]

    def _ask(self, box: Path, out: Path, question: str) -> str:
        """How the run of a box ended."""
        if self.nursery is None or self.nursery.poll() is not None:
            self._start()
        assert self.nursery and self.nursery.stdin and self.nursery.stdout
        request = {
            "box": str(box),
            "out": str(out),
            "question": question,
            "seconds": self.seconds,
            "wall": self.wall,
            "bytes": self.megabytes * 2**20,
        }
        try:
            self.nursery.stdin.write(json.dumps(request) + "\n")
            self.nursery.stdin.flush()
            return json.loads(self.nursery.stdout.readline())["ended"]
        except (OSError, ValueError):
            self._stop()
            return "lost"

    def _start(self) -> None:
        # Without the site module, so that an editable install of the package is not found.
        libraries = sorted({str(Path(m.__file__).parents[1]) for m in (torch, numpy, einops)})
        code = (
            f"import runpy, sys; sys.path += {libraries!r}; "
            "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
        )
        self.nursery = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", code, nursery.__file__, *self.preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self.folder,
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(self.folder),
                "TMPDIR": str(self.folder),
                "OMP_NUM_THREADS": "1",
                "OMP_WAIT_POLICY": "passive",
                "HF_HUB_OFFLINE": "1",
            },
        )

    def _stop(self) -> None:
        if self.nursery is not None:
            self.nursery.kill()
            self.nursery.wait()
            for pipe in (self.nursery.stdin, self.nursery.stdout):
                if pipe:
                    pipe.close()
        self.nursery = None

    def _read(self, out: Path, ended: str, n: int) -> list[Outcome]:
        """Results, read with suspicion: whatever is wrong with them is an outcome with an error."""
        why = {
            "done": "it returned something that cannot be read",
            "stopped": "it ended the program",
            "late": f"it did not end within {self.wall:g} s",
            "signal SIGXCPU": f"it took more than {self.seconds:g} s of computing time",
            "signal SIGKILL": f"it took more than {self.seconds:g} s of computing time, or memory",
            "signal SIGXFSZ": "it wrote too much",
        }.get(ended, f"it stopped the grader's process ({ended})")
        failed = [Outcome(error=why)] * n
        if ended != "done" or not out.is_file():
            return failed
        try:
            blob = out.read_bytes()
            (length,) = struct.unpack("<Q", blob[:8])
            head = json.loads(blob[8 : 8 + length])
            (tensors,) = nursery.unpack(head["tensors"], blob[8 + length :])
            found = []
            for number in range(n):
                row = head["report"][number]
                changed = tuple(str(c)[:40] for c in row["changed"][:9])
                if "error" in row:
                    at = f", in {row['line']}" if row["line"] else ""
                    text = f"{row['error']}: {row['message']}{at}"
                    found.append(Outcome(error=printable(text), changed=changed))
                else:
                    got = tuple(tensors[f"{number}/{i}"] for i in range(int(row["n"])))
                    found.append(Outcome(got, changed=changed))
            return found
        except (ValueError, KeyError, IndexError, TypeError, struct.error, RuntimeError):
            return failed


def printable(text: str, most: int = 500) -> str:
    """Text of unknown origin on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:most]
