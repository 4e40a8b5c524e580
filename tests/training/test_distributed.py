"""Two processes train as one does: the same samples, noise and losses; and they end together."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from support.tiny_runs import ROOT, TINY, environment, log_of, train

from imagen_mini.training.checkpoint import load_checkpoint
from imagen_mini.training.distributed import DistributedContext

slow = partial(pytest.param, marks=pytest.mark.slow)
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch without distributed"
)
TIMEOUT = 600  # seconds; a run takes a few, and one that hangs would take an hour
# the rate that the bounds are for: AdamW turns rounding into steps
STEPS = ["steps=6", "log_every=1", "precision=fp32", "optimizer=adamw", "learning_rate=1e-3"]


def torchrun(folder, *options, script=("-m", "train.train"), world=2):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(world),
        *script,
        "--stage",
        "base",
        "--output-dir",
        str(folder),
        *TINY,
        *options,
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        env=environment(),
    )


def assert_nearly_same_end(one, other, rate=1e-4):
    (a, state_a, _), (b, state_b, _) = load_checkpoint(one), load_checkpoint(other)
    assert state_a["step"] == state_b["step"]
    log_a, log_b = log_of(one), log_of(other)
    assert [line["loss"] for line in log_a] == pytest.approx(
        [line["loss"] for line in log_b], rel=rate
    )
    assert [line["gradient_norm"] for line in log_a] == pytest.approx(
        [line["gradient_norm"] for line in log_b], rel=10 * rate, abs=1e-4
    )
    for x, y in zip(log_a, log_b):
        seen = [
            (a, b)
            for a, b in zip(x["loss_by_bin"], y["loss_by_bin"])
            if a is not None or b is not None
        ]
        assert len(seen) >= 3 and [a for a, _ in seen] == pytest.approx(
            [b for _, b in seen], rel=rate
        )
    for part in ("weights", "ema"):
        assert set(a[part]) == set(b[part])
        far = max((a[part][k] - b[part][k]).abs().max().item() for k in a[part])
        assert far < 1e-4, (part, far)
    assert set(a["optimizer"]) == set(b["optimizer"]) and all(
        v.shape == b["optimizer"][k].shape for k, v in a["optimizer"].items()
    )


def test_every_sample_has_one_rank():
    for n in (1, 4, 7, 64):
        for world in (1, 2, 3, 5):
            shares = [DistributedContext(rank, world).share(n) for rank in range(world)]
            assert [i for share in shares for i in share] == list(range(n)) and max(
                map(len, shares)
            ) - min(map(len, shares)) <= 1


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "run"
    train(folder, *STEPS)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [[], slow(["gradient_accumulation_steps=2", "num_workers=1"]), slow(["--shard"])],
    ids=["replicated", "in parts, with workers", "sharded"],
)
def test_two_ranks_train_as_one_does(tmp_path, single, options):
    done = torchrun(tmp_path / "run", *STEPS, *options)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("6 steps of 4 images on 2 x CPU") == 1  # one of them logs
    assert_nearly_same_end(tmp_path / "run", single)


@pytest.mark.slow
@pytest.mark.parametrize(
    "first, then",
    [
        slow((2, []), (1, [])),
        ((1, []), (2, ["--shard"])),
        slow((2, ["--shard"]), (1, [])),
    ],
    ids=["2 then 1", "1 then 2 sharded", "2 sharded then 1"],
)
def test_a_run_resumes_with_another_number_of_ranks(tmp_path, single, first, then):
    for how, (world, options) in (
        ([*STEPS, "--time-limit", "0"], first),
        (["--resume", *STEPS], then),
    ):
        if world == 1:
            train(tmp_path / "run", *how, *options)
        else:
            done = torchrun(tmp_path / "run", *how, *options, world=world)
            assert done.returncode == 0, done.stdout
    assert_nearly_same_end(tmp_path / "run", single)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, words",
    [
        slow("nan in an image", "step 2 of stage base: loss nan"),
        slow("nan in a loss", "step 2 of stage base: loss nan"),
        ("nan in a gradient", "step 2 of stage base: loss"),
        slow("raises", "ZeroDivisionError: something is wrong here"),
        slow("is killed", "Signal 9"),
        slow("hangs", "imed out"),
    ],
)
def test_one_rank_that_fails_ends_them_all(tmp_path, fault, words):
    train(tmp_path / "run", *STEPS, "--time-limit", "0")  # one step, one checkpoint
    before = load_checkpoint(tmp_path / "run")[0]["weights"]
    done = torchrun(
        tmp_path / "run",
        "--resume",
        "--rank-timeout",
        "5",
        script=("tests/support/fault_injection.py", fault, "2"),
    )
    assert done.returncode != 0 and words in done.stdout, done.stdout
    if fault.startswith("nan"):
        # both ranks stop by themselves
        assert done.stdout.count("the weights were left as they were") == 2, done.stdout
    after, state, _ = load_checkpoint(tmp_path / "run")
    assert state["step"] == 1 and all(torch.equal(before[k], after["weights"][k]) for k in before)
