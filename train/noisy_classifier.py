"""Train a classifier of noisy images, for classifier guidance: count, colours, shapes and relations
of a scene, read at any noise level.

    python -m train.noisy_classifier --out outputs/noisy.safetensors
    python -m train.noisy_classifier --world studio --out outputs/studio.safetensors

Images are rendered on the fly, of scenes of every kind, held-out ones too. Each gets noise of a
log-SNR between -10 and 10. The script prints how often all labels of a kind are correct, at four
noise levels, on scenes that were not trained on.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.evaluation.noisy_classifier import (
    HIGHEST,
    LOWEST,
    NoisyClassifier,
    classification_loss,
    facts_of_scene,
    noisy_labels,
    save_noisy_classifier,
)
from imagen_mini.scenes.world import WORLDS, World, find_world
from imagen_mini.training.optimizers import one_cycle
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.rng import generator
from imagen_mini.utils.scripts import check_output_file, integer, number, run_script, script_parser
from train.scene_classifier import any_scene

LEVELS = (8.0, 0.0, -4.0, -7.0)  # log-SNRs of the report


def noisy_batch(
    size: int,
    purpose: str,
    step: int,
    n: int,
    device: str,
    world: World,
    log_snr: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy images and their labels, a function of purpose and step.

    Args:
        size: Width of the images.
        purpose: "train" or "test".
        step: Number of the batch.
        n: Images in it.
        device: Where it is computed.
        world: The world of the scenes.
        log_snr: One noise level for all. None: uniform between -10 and 10.

    Returns:
        x_t [n, 3, size, size]; log-SNRs [n]; labels [n, labels].
    """
    rng = random.Random(f"noisy/{purpose}/{step}")
    scenes = [any_scene(rng, world) for _ in range(n)]
    images = world.render(scenes, size, device)
    g = generator(step, "noisy", purpose)
    eps = torch.randn(images.shape, generator=g).to(images.device)
    level = LOWEST + (HIGHEST - LOWEST) * torch.rand(n, generator=g)
    if log_snr is not None:
        level = torch.full((n,), log_snr)
    level = level.to(images.device)
    facts = torch.stack([facts_of_scene(scene) for scene in scenes])
    return q_sample(images, eps, level), level, facts.to(images.device)


@torch.no_grad()
def noisy_accuracy(net: NoisyClassifier, n: int, device: str, log_snr: float) -> dict[str, float]:
    """Return the share of images of which all labels of a kind are correct, at a noise level."""
    x_t, level, truth = noisy_batch(net.size, "test", 0, n, device, net.world, log_snr)
    logits = torch.cat([net(x, t) for x, t in zip(x_t.split(128), level.split(128))])
    told = logits > 0
    known = noisy_labels()
    counts = len(known["count"])
    told[:, :counts] = torch.nn.functional.one_hot(logits[:, :counts].argmax(1), counts).bool()
    widths = [len(values) for values in known.values()]
    parts = zip(known, told.split(widths, dim=1), truth.bool().split(widths, dim=1))
    return {kind: (a == b).all(1).float().mean().item() for kind, a, b in parts}


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--world", choices=WORLDS, default="scenes", help="(default: scenes)")
    parser.add_argument("--size", type=int, choices=(64, 256), default=64)
    parser.add_argument("--steps", type=integer(low=1), default=5000)
    parser.add_argument("--batch", type=integer(low=1), default=64)
    parser.add_argument("--rate", type=number(above=0), default=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("outputs/noisy.safetensors"))
    args = parser.parse_args(arguments)
    check_output_file(args.out, suffixes=(".safetensors",))
    available_device(args.device)
    torch.manual_seed(0)
    world = find_world(args.world)
    net = NoisyClassifier(args.size, world).to(args.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=0.01)
    schedule = one_cycle(optimizer, args.rate, args.steps)
    start = time.monotonic()
    bar = tqdm(range(args.steps), desc=f"noisy classifier of {args.size} px", unit="step")
    for step in bar:
        x_t, level, facts = noisy_batch(args.size, "train", step, args.batch, args.device, world)
        loss = classification_loss(net(x_t, level), facts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    save_noisy_classifier(net.eval(), args.out)
    print(
        f"{sum(p.numel() for p in net.parameters()):,} parameters, {args.steps:,} steps of "
        f"{args.batch}, {time.monotonic() - start:.0f} s"
    )
    for log_snr in LEVELS:
        found = noisy_accuracy(net, 512, args.device, log_snr)
        print(
            f"log-SNR {log_snr:+.0f}: "
            + ", ".join(f"{kind} {share:.1%}" for kind, share in found.items())
        )
    print(args.out)


if __name__ == "__main__":
    run_script(main)
