"""Fine-tune the base stage of a pipeline to inpaint: it sees what is known of an image, and fills
in the rest.

    python -m train.inpainting --pipeline scenes --out outputs/inpainting
    python -m sample.image_edits --pipeline outputs/inpainting --rows "inpaint, painted mask"

The network gets four input channels more: the image with a hole, and where it is known. Their
weights begin at 0, so that it begins as the network that it was. Scenes of its world are rendered
on the fly, each with a random hole. In a quarter of them nothing is known; in a tenth no caption
is read. The result is a pipeline of one stage. It generates from text alone as well.

A checkpoint is saved to OUT every --save-every steps; the same command goes on from there.
"""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.cascade.weight_transfer import with_inpainting
from imagen_mini.data.holes import random_known
from imagen_mini.editing.guided_sampling import known_part
from imagen_mini.scenes.world import World
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.rng import generator
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)

DROPPED = 0.1  # share of captions that are not read, for guidance
SEED = 36  # of the scenes


def inpainting_loss(
    stage: DiffusionStage, encoder: TextEncoder, world: World, step: int, n: int
) -> Tensor:
    """The mean loss of a batch of scenes with holes, a function of the step.

    Args:
        stage: A base stage with `inpainting`.
        encoder: Its text encoder.
        world: The world of the scenes.
        step: Number of the batch.
        n: Images in it.
    """
    size, device = stage.config.unet.image_size, stage.net.out.weight.device
    # 1. the scenes, their captions, and what is known of them
    numbers = range(step * n, (step + 1) * n)
    scenes = [world.training_scene(SEED, i, (22, 50, 17, 11)) for i in numbers]
    captions = [world.training_caption(s, SEED, i).text for s, i in zip(scenes, numbers)]
    images = world.render(scenes, size, device)
    rng = random.Random(f"holes/{SEED}/{step}")
    known = torch.stack([random_known(rng, size) for _ in scenes])
    # 2. times, noise, and which captions are not read
    g = generator(step, "inpainting", "train")
    t, dropped = torch.rand(n, generator=g), torch.rand(n, generator=g) < DROPPED
    eps = torch.randn(images.shape, generator=g)
    text = encoder(captions)
    # 3. the loss
    return stage(
        images,
        text.drop(dropped.to(text.emb.device)),
        t.to(device),
        eps.to(device),
        known=known_part(images, known.to(device)),
    ).mean()


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--pipeline", default="scenes", help="(default: the shipped weights)")
    parser.add_argument("--steps", type=integer(low=1), default=4000, help="(4000)")
    parser.add_argument("--batch", type=integer(low=1), default=16, help="(16)")
    parser.add_argument("--rate", type=number(above=0), default=3e-4, help="(3e-4)")
    parser.add_argument("--save-every", type=integer(low=1), default=250, help="(250)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("outputs/inpainting"), help="a folder")
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    device = available_device(args.device)
    pipe = ImagenPipeline.from_pretrained(args.pipeline).to(device)
    # 1. the network, as it was or as far as it is trained
    stage = with_inpainting(next(iter(pipe.stages.values()))).train()
    weights = list(stage.parameters())
    optimizer = torch.optim.AdamW(weights, lr=args.rate, weight_decay=0.01)
    plan = {"pipeline": args.pipeline, "steps": args.steps, "batch": args.batch, "rate": args.rate}
    first = _continue(args.out, plan, stage, optimizer) if checkpoints(args.out) else 0
    # 2. training
    start = time.monotonic()
    bar = tqdm(range(first, args.steps), initial=first, total=args.steps, desc="inpainting")
    for step in bar:
        loss = inpainting_loss(stage, pipe.text_encoder, pipe.world, step, args.batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = args.rate * share_of_rate(step, args.steps)
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            tensors = {"weights": stage.state_dict(), "ema": {}, "optimizer": _moments(optimizer)}
            save_checkpoint(args.out, step + 1, tensors, {"step": step + 1, "plan": plan}, keep=1)
    # 3. the pipeline
    ImagenPipeline(pipe.text_encoder, [stage.eval()]).save_pretrained(args.out)
    print(f"{args.steps:,} steps of {args.batch}, {time.monotonic() - start:.0f} s")
    print(args.out)


def share_of_rate(step: int, steps: int) -> float:
    """The learning rate of a step as a share of the largest: up in a twentieth of the steps, then
    down to 0 along a cosine.
    """
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup + 1) / (steps - warmup + 1))


def _moments(optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The state of the optimizer, by number of the weight."""
    states = optimizer.state_dict()["state"]
    return {f"{i}.{name}": x.clone() for i, of in states.items() for name, x in of.items()}


def _continue(folder: Path, plan: dict, stage: DiffusionStage, optimizer: torch.optim.AdamW) -> int:
    """Load the newest checkpoint.

    Returns:
        The number of steps done.

    Raises:
        ValueError: It is one of a run with other options.
    """
    tensors, state, notes = load_checkpoint(folder)
    for note in notes:
        print(note)
    if state.get("plan") != plan:
        raise ValueError(
            f"{folder}: a run of {state.get('plan')}, and this is one of {plan}; pass the same "
            "options, or another --out"
        )
    stage.load_state_dict(tensors["weights"])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors["optimizer"].items():
        number, _, name = key.partition(".")
        moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return state["step"]


if __name__ == "__main__":
    run_script(main)
