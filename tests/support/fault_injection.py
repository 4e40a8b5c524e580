"""The training script with something going wrong in it: `python tests/support/fault_injection.py
FAULT STEP ARGUMENTS...`. Under torchrun it hits rank 1 only.

Kept apart from the tests because processes run it.
"""

import os
import signal
import sys
import time

import torch

import imagen_mini.data.datasets
import imagen_mini.training.loop
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.synthetic import SceneDataset
from train import train

NAN = float("nan")


def asked_for(step: int, batch_size: int = 4) -> type:
    """The built-in world, with the fault when the batch of `step` is asked for."""

    class Broken(SceneDataset):
        def plan(self, indices, *args):
            plan = super().plan(indices, *args)
            if indices[0] // batch_size == step:
                return fault(plan)
            return plan

    return Broken


def fault(plan):
    if FAULT == "nan in an image":
        plan.scenes.backgrounds[0, 0] = NAN
    elif FAULT == "nan in a loss":
        loss = DiffusionStage.forward
        DiffusionStage.forward = lambda *args, **options: loss(*args, **options) * NAN
    elif FAULT == "nan in a gradient":
        for p in PARAMETERS:
            p.register_hook(lambda g: g * NAN)
    elif FAULT == "raises":
        raise ZeroDivisionError("something is wrong here")
    elif FAULT == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif FAULT == "hangs":
        time.sleep(3600)
    elif FAULT == "is killed as a worker":
        assert torch.utils.data.get_worker_info() is not None
        os.kill(os.getpid(), signal.SIGKILL)
    return plan


if __name__ == "__main__":
    FAULT, step, *arguments = sys.argv[1:]
    PARAMETERS = []
    replicate = imagen_mini.training.loop.wrap_ddp

    def note_parameters(stage, ranks):
        PARAMETERS.append(stage.net.out.weight)
        return replicate(stage, ranks)

    imagen_mini.training.loop.wrap_ddp = note_parameters
    if os.environ.get("RANK", "1") == "1" and FAULT != "none":
        imagen_mini.data.datasets.SceneDataset = asked_for(int(step))
    print(f"rank {os.environ.get('RANK', 'alone')}", flush=True)
    train.main(arguments)
