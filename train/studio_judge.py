"""Train the judge of the world `studio`: a small network, on rendered truth.

    python -m train.studio_judge --out outputs/studio_judge
    # the second judge, of another form and seed, to check the first one with
    python -m train.studio_judge --out outputs/studio_judge_second --form second --seed 1

Images are rendered on the fly, and half of them have something wrong in them (see
`studio_judge_examples`). Training ends after its steps or at its time limit, whichever comes first.
Weights are written every few minutes. At the end the script prints how often fresh renders are read
correctly.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from imagen_mini.evaluation.parser_robustness import count_outcomes, fresh_scenes
from imagen_mini.scenes.scene import GRID
from imagen_mini.scenes.studio.judge import read_studio_images
from imagen_mini.scenes.studio.reader import GROUND, DilatedReader, PixelReader, Seen
from imagen_mini.scenes.world import WORLDS
from imagen_mini.utils.precision import compute_dtype
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from train.studio_judge_examples import Labels, examples

SIZES = (64, 256)
SAVE_EVERY = 250  # steps
STUDIO = WORLDS["studio"]


def cross_entropy(logits: Tensor, shares: Tensor, weight: Tensor) -> Tensor:
    """The mean over pixels, of [b, n, h, w] each with weights [b, h, w]."""
    loss = -(shares * logits.log_softmax(1)).sum(1)
    return (loss * weight).sum() / weight.sum().clamp(min=1)


def reading_loss(seen: Seen, labels: Labels) -> Tensor:
    """The cross-entropies of all that is told, added."""
    kind_weight = labels.asked * (1 + 2 * (1 - labels.kind[:, GROUND]))
    light = F.cross_entropy(seen.light, labels.light, reduction="none") * labels.asked_light
    return (
        5 * cross_entropy(seen.kind, labels.kind, kind_weight)
        + cross_entropy(seen.surface, labels.surface, labels.of_ground)
        + 0.5 * light.mean()
    )


# The networks that can be trained. The second one is there to check the first one with.
FORMS: dict[str, Callable[[], nn.Module]] = {"first": PixelReader, "second": DilatedReader}
SHOWN = (64, 64, 256)  # sizes to render at in turn, and reduce


def save_weights(net: nn.Module, path: Path) -> None:
    """Save a network's weights as bfloat16."""
    state = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in net.state_dict().items()}
    save_file(state, path)
    path.chmod(0o644)


def train_network(
    form: Callable[[], nn.Module],
    path: Path,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    minutes: float,
    start_from: dict[str, Tensor] | None = None,
) -> tuple[nn.Module, int]:
    """Train one network, and save its average over the last steps.

    Args:
        form: The network, one of FORMS.
        path: File of the weights.
        steps: Steps at most.
        batch: Images of a step.
        rate: The highest learning rate.
        seed: Of weights and images.
        minutes: Time limit. The rate falls with the time that has passed, so that it ends low.
        start_from: Weights to take where names and shapes agree (default: none).

    Returns:
        The average network, and the steps that it took.
    """
    torch.manual_seed(seed)
    net = form().to(memory_format=torch.channels_last)
    if start_from is not None:
        own = net.state_dict()
        same = {k: v for k, v in start_from.items() if k in own and own[k].shape == v.shape}
        net.load_state_dict(same, strict=False)
    average = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    faster = compute_dtype("auto", torch.device("cpu")) == torch.bfloat16
    start, step, mean = time.monotonic(), 0, 0.0
    bar = tqdm(total=steps, desc="judge", unit="step")
    while step < steps:
        passed = max(step / steps, (time.monotonic() - start) / (60 * minutes))
        if passed >= 1:
            break
        # 1. The rate: up within a hundred steps, then down along a cosine.
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * passed)) / 2
        # 2. One step.
        shown = SHOWN[step % len(SHOWN)]
        images, labels = examples(shown, f"train {seed}", step, batch)
        images = F.avg_pool2d(images, shown // GRID)
        with torch.autocast("cpu", torch.bfloat16, enabled=faster):
            told = net(images.contiguous(memory_format=torch.channels_last))
        loss = reading_loss(told, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
        # 3. The average of the weights, over less than the last 500 steps.
        keep = min(0.998, 1 - 10 / (step + 10))
        with torch.no_grad():
            for a, p in zip(average.parameters(), net.parameters()):
                a.lerp_(p, 1 - keep)
        mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
        bar.update()
        if step % SAVE_EVERY == 0:
            save_weights(average, path)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{mean:.3f}")
    bar.close()
    save_weights(average, path)
    return average, step


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--form", choices=FORMS, default="first", help="(default: first)")
    parser.add_argument("--steps", type=integer(low=1), default=4000, help="(default: 4000)")
    parser.add_argument("--batch", type=integer(low=2), default=32, help="(default: 32)")
    parser.add_argument("--rate", type=number(above=0), default=3e-3, help="(default: 0.003)")
    parser.add_argument("--seed", type=integer(), default=0, help="(default: 0)")
    parser.add_argument(
        "--minutes", type=number(above=0), default=30, help="time limit (default: 30)"
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FILE",
        help="weights to start from (default: none)",
    )
    parser.add_argument(
        "--n", type=integer(low=1), default=1000, help="fresh renders to read (default: 1000)"
    )
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    net, steps = train_network(
        FORMS[args.form],
        args.out / f"{GRID}.safetensors",
        steps=args.steps,
        batch=args.batch,
        rate=args.rate,
        seed=args.seed,
        minutes=args.minutes,
        start_from=None if args.start_from is None else load_file(args.start_from),
    )
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, {steps} steps")
    read = partial(read_studio_images, folder=args.out)
    for size in SIZES:
        found = count_outcomes(fresh_scenes(args.n, STUDIO), size, STUDIO, read)
        print(f"{size} px, fresh renders: " + ", ".join(f"{k} {v}" for k, v in found.items()))


if __name__ == "__main__":
    run_script(main)
