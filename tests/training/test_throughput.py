"""What the loop, the log and the rest cost beside a bare loop that does the same arithmetic."""

import statistics
import time

import pytest
import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.training.config import TRAIN_PRESETS
from imagen_mini.training.ema import EMA
from imagen_mini.training.optimizers import make_optimizers
from imagen_mini.utils.precision import compute_dtype
from train.train import main

BATCH, PAIRS = 16, 40  # images of a step; pairs of steps
ALLOWED = 1.03


@pytest.mark.slow
def test_training_is_as_fast_as_a_bare_loop(tmp_path, encoder, monkeypatch):
    """A step of training and one of the bare loop take turns, so that other jobs of the machine
    slow both alike. Compared is the time of the processor, which waiting for one does not add to:
    the median ratio of pairs.
    """
    config = TRAIN_PRESETS["mini"]["base"]
    stage = DiffusionStage(PRESETS["mini"]["base"]).to(memory_format=torch.channels_last)
    optimizers = make_optimizers(
        stage.net, config.optimizer, 1e-4, config.betas, config.weight_decay
    )
    average = [p.detach().clone() for p in stage.parameters()]
    dtype = compute_dtype("auto", torch.device("cpu"))

    def bare(step):
        x_0, _, captions = SceneDataset().batch(range(step * BATCH, (step + 1) * BATCH), 64)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = stage.loss(
                x_0, encoder(captions), torch.rand(BATCH), torch.randn_like(x_0)
            ).mean()
        stage.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(stage.parameters()), 0.01)

    ratios: list[float] = []
    update, began = EMA.update, None

    def update_then_compare(self, step):
        nonlocal began
        update(self, step)  # the end of a step of training
        ours = None if began is None else time.process_time() - began
        start = time.process_time()
        bare(step)
        if ours is not None:  # the first step is not compared
            ratios.append(ours / (time.process_time() - start))
        began = time.process_time()

    monkeypatch.setattr(EMA, "update", update_then_compare)
    settings = [f"batch_size={BATCH}", f"steps={PAIRS + 1}", "sample_every=0", "save_every=10000"]
    recipe = ["--stage", "base", "--preset", "mini", "--device", "cpu", *settings, "log_every=10"]
    main([*recipe, "--output-dir", str(tmp_path / "run")])
    ratio = statistics.median(ratios)
    print(f"{len(ratios)} pairs of steps: train.train takes {ratio - 1:+.1%}")
    assert ratio < ALLOWED
