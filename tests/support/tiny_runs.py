"""Training runs of a tiny network, for tests of what happens to them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from train.log import TIMES
from train.train import main

ROOT = Path(__file__).parents[2]
TINY = [
    "--preset",
    "tiny",
    "--device",
    "cpu",
    "--threads",
    "1",
    "batch_size=4",
    "warmup=2",
    "sample_every=0",
    "log_every=3",
    "ema_half_life=3",
]


def train(folder, *options, stage="base"):
    threads = torch.get_num_threads()
    try:
        main(["--stage", stage, "--output-dir", str(folder), *TINY, *options])
    finally:
        torch.set_num_threads(threads)


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


def default_signals():
    """Undo what nohup and background jobs of a shell do, who ignore signals that tests send."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def process(folder, *options, script=("-m", "train.train"), **more):
    return subprocess.Popen(
        [sys.executable, *script, "--stage", "base", "--output-dir", str(folder), *TINY, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        preexec_fn=default_signals,
        **more,
    )


def log_of(folder):
    """The log without what no two runs have in common."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
