"""Train the features by which sets of images are compared: a small classifier of what a scene
contains.

    python -m train.scene_classifier --size 64
    python -m train.scene_classifier --size 256
    python -m train.scene_classifier --world studio --size 64

Images are rendered on the fly, of scenes of every kind, held-out ones too. A little noise is added,
so that artifacts of a generator do not disturb the classifier. The script prints the accuracy for
each kind of label, on scenes that were not trained on.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from imagen_mini.evaluation.scene_features import (
    SceneClassifier,
    known_labels,
    save_classifier,
    scene_labels,
    weights_of,
)
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.world import SCENES, WORLDS, World, find_world
from imagen_mini.training.optimizers import one_cycle
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.rng import generator
from imagen_mini.utils.scripts import check_output_file, integer, number, run_script, script_parser

NOISE = 0.05  # the largest standard deviation


def any_scene(rng: random.Random, world: World) -> Scene:
    """Sample a scene of 1 to 5 objects, held-out combinations included."""
    return world.random_scene(
        rng, count=rng.choices((1, 2, 3, 4, 5), (25, 35, 17, 13, 10))[0], exclude_held_out=False
    )


def batch_of(
    size: int, purpose: str, step: int, n: int, device, world: World = SCENES
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy images [n, 3, size, size] and their labels, a function of purpose and step."""
    rng = random.Random(f"features/{purpose}/{step}")
    scenes = [any_scene(rng, world) for _ in range(n)]
    g = generator(step, "features", purpose)
    images = world.render(scenes, size, device)
    noise = (
        torch.randn(images.shape, generator=g) * torch.rand(n, 1, 1, 1, generator=g) * NOISE
    ).to(images.device)
    labels = torch.stack([scene_labels(s, world) for s in scenes])
    return (images + noise).clamp(-1, 1), labels.to(images.device)


@torch.no_grad()
def accuracy(net: SceneClassifier, n: int, device) -> dict[str, float]:
    """Return the share of images of which all labels of a kind are correct."""
    images, truth = batch_of(net.size, "test", 0, n, device, net.world)
    told = torch.cat([net(part) for part in images.split(128)]) > 0
    known = known_labels(net.world)
    widths = [len(values) for values in known.values()]
    parts = zip(known, told.split(widths, dim=1), truth.bool().split(widths, dim=1))
    return {kind: (a == b).all(1).float().mean().item() for kind, a, b in parts}


@torch.no_grad()
def standardize(net: SceneClassifier, n: int, device) -> None:
    """Give each feature mean 0 and variance 1 over true images, without changing the logits."""
    images, _ = batch_of(net.size, "standardize", 0, n, device, net.world)
    found = torch.cat([net.features(part) for part in images.split(128)])
    mean, deviation = found.mean(0), found.std(0)
    net.to_facts.bias += net.to_facts.weight @ mean
    net.to_facts.weight *= deviation
    net.to_features.weight /= deviation[:, None]
    net.to_features.bias.sub_(mean).div_(deviation)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--world", choices=WORLDS, default="scenes", help="(default: scenes)")
    parser.add_argument("--size", type=int, choices=(64, 256), default=64)
    parser.add_argument("--steps", type=integer(low=1), default=3000)
    parser.add_argument("--batch", type=integer(low=1), default=64)
    parser.add_argument("--rate", type=number(above=0), default=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="(default: among the shipped weights)")
    args = parser.parse_args(arguments)
    world = find_world(args.world)
    out = args.out or weights_of(args.size, world)
    check_output_file(out, suffixes=())
    available_device(args.device)
    torch.manual_seed(0)
    net = SceneClassifier(args.size, world).to(args.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=0.01)
    schedule = one_cycle(optimizer, args.rate, args.steps)
    start, bar = (
        time.monotonic(),
        tqdm(range(args.steps), desc=f"features of {args.size} px", unit="step"),
    )
    for step in bar:
        images, truth = batch_of(args.size, "train", step, args.batch, args.device, world)
        loss = F.binary_cross_entropy_with_logits(net(images), truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    standardize(net.eval(), 2048, args.device)
    save_classifier(net, out)
    print(
        f"{sum(p.numel() for p in net.parameters()):,} parameters, {args.steps:,} steps of "
        f"{args.batch}, {time.monotonic() - start:.0f} s"
    )
    print(
        "accuracy: "
        + ", ".join(
            f"{kind} {share:.1%}" for kind, share in accuracy(net, 512, args.device).items()
        )
    )
    print(out)


if __name__ == "__main__":
    run_script(main)
