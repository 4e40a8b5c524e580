"""Where does the time of a training step go? Part by part, and how near each is to what the
processor can do.

    python -m train.profile_step
    python -m train.profile_step --stage sr_256 --batch 16
    python -m train.profile_step stage.unet.channels=[64,128,192]

Every part of the network runs by itself, forward and backward, on the inputs that it has in a real
step. Beside them stands what else a step does: images, noise, text, optimizers, average. Parts and
a large matrix product take turns, and the fastest turn of each counts. FLOPs are torch's count.
What the parts do not explain of a full step is shown as "the rest": the loss, concatenations, and
what parts do to each other's caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from imagen_mini.cascade.config import PRESETS
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.models.attention import Attention
from imagen_mini.models.layers import (
    AttentionPooling,
    Downsample,
    ResBlock,
    ScalarEmbedding,
    TextRefinerBlock,
    Upsample,
)
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder
from imagen_mini.training.batches import draw_noise, draw_step_variables
from imagen_mini.training.config import TRAIN_PRESETS, TrainConfig, override_run
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import train
from imagen_mini.utils.devices import available_device, device_name
from imagen_mini.utils.precision import compute_dtype
from imagen_mini.utils.scripts import integer, run_script, script_parser
from imagen_mini.weights import WEIGHTS
from train.baselines import build_for_training
from train.benchmark_throughput import MatrixProduct

PART_NAMES = {
    ResBlock: "residual blocks",
    Attention: "attention",
    Downsample: "halving the grid",
    Upsample: "doubling the grid",
    TextRefinerBlock: "text layers",
    AttentionPooling: "pooled text",
    ScalarEmbedding: "embedding of numbers",
}


@dataclass
class Part:
    """A part of a step.

    Attributes:
        name: Its name in the report; parts of one name are added up.
        run: Runs it once.
        flops: FLOPs of one run.
        times: Seconds of each run.
    """

    name: str
    run: Callable[[], None]
    flops: int = 0
    times: list[float] = field(default_factory=list)


def parts_of_step(
    stage,
    encoder: TextEncoder,
    config: TrainConfig,
    optimizers: dict,
    ema: EMA,
    device: torch.device,
) -> list[Part]:
    """Return every part of a step; those of the network with the inputs that they have in one.

    Args:
        stage: The stage.
        encoder: The text encoder.
        config: The training.
        optimizers: The stage's optimizers by name.
        ema: The average of the weights.
        device: Where to run.
    """
    net, unet, numbers = stage.net, stage.config.unet, range(config.batch_size)
    data = SceneDataset(config.seed, config.object_count_weights, stage.config.world)
    batch = data.batch(numbers, unet.image_size, unet.low_res_size, device)
    random = {
        k: v.to(device) for k, v in draw_step_variables(config, stage, 0).items() if k != "drop"
    }
    text = encoder(batch.captions).to(torch.float32)
    mixed = torch.autocast(
        device.type,
        torch.bfloat16,
        enabled=compute_dtype(config.precision, device) == torch.bfloat16,
    )
    seen: list[tuple[str, nn.Module, tuple]] = []

    def remember(name: str):
        return lambda module, inputs: seen.append((name, module, inputs))

    hooks = [
        m.register_forward_pre_hook(remember(_name(key, m)))
        for key, m in net.named_modules()
        if _name(key, m)
    ]
    with mixed:
        loss = stage.loss(
            batch.images,
            text,
            low_res=batch.low_res,
            **random,
            **draw_noise(config, stage, numbers, batch),
        )
    loss.mean().backward()  # the optimizers need gradients
    for hook in hooks:
        hook.remove()
    parts = [
        Part("images", lambda: data.batch(numbers, unet.image_size, unet.low_res_size, device)),
        Part("noise", lambda: draw_noise(config, stage, numbers, batch)),
        Part("text encoder", lambda: encoder(batch.captions)),
        *(Part(f"optimizer, {name}", optimizer.step) for name, optimizer in optimizers.items()),
        Part("average of the weights", lambda: ema.update(1)),
    ]
    for name, module, inputs in seen:
        run = _forward_and_backward(module, inputs, mixed)
        with FlopCounterMode(display=False) as counter:
            run()
        parts.append(Part(_at(name, inputs), run, counter.get_total_flops()))
    return parts


def _name(key: str, module: nn.Module) -> str | None:
    """Return the name of a module in the report; None if it is not shown."""
    if key in ("stem", "out"):
        return {"stem": "first convolution", "out": "last convolution"}[key]
    if isinstance(module, Attention):
        return f"{module.site.kind} attention"
    return PART_NAMES.get(type(module))


def _at(name: str, inputs: tuple) -> str:
    """Return the name with the side of the grid that the module works on."""
    x = inputs[0]
    return (
        f"{name}, {x.shape[-1]} x {x.shape[-1]}" if isinstance(x, Tensor) and x.ndim == 4 else name
    )


def _forward_and_backward(
    module: nn.Module, inputs: tuple, mixed: torch.autocast
) -> Callable[[], None]:
    """Return a function that runs a module forward and backward on these inputs."""
    needs = [
        x.detach().requires_grad_(x.is_floating_point() and x.requires_grad)
        if isinstance(x, Tensor)
        else TextEmbeddings(x.emb.detach().requires_grad_(x.emb.requires_grad), x.mask)
        if isinstance(x, TextEmbeddings)
        else x
        for x in inputs
    ]

    def run() -> None:
        with mixed:
            out = module(*needs)
        out.backward(torch.ones_like(out))

    return run


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mini")
    parser.add_argument("--stage", default="base")
    parser.add_argument("--batch", type=integer(low=1), default=32)
    parser.add_argument("--rounds", type=integer(low=1), default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes of the recipe or, with 'stage.' before them, of the stage",
    )
    args = parser.parse_intermixed_args(arguments)
    if args.stage not in PRESETS[args.preset]:
        parser.error(
            f"--stage {args.stage}: the preset {args.preset} has {', '.join(PRESETS[args.preset])}"
        )
    device = available_device(args.device)
    config, stage_config = override_run(
        TRAIN_PRESETS[args.preset][args.stage], PRESETS[args.preset][args.stage], args.overrides
    )
    config = replace(config, batch_size=args.batch, steps=10**9)
    encoder = TextEncoder.from_pretrained(WEIGHTS / "text_encoder").to(device)
    stage, optimizers = build_for_training("ours", stage_config, config, device)
    ema = EMA(stage.net, config.ema_half_life)
    steps = train(stage, encoder, config, optimizers, ema)
    next(steps)  # the first step allocates and picks kernels
    parts = parts_of_step(stage, encoder, config, optimizers, ema, device)
    product, whole = MatrixProduct(device), []
    for _ in tqdm(range(args.rounds), desc="rounds"):
        product.time(2)
        whole.append(timed(lambda: next(steps), device))
        for part in parts:
            part.times.append(timed(part.run, device))
    print_report(parts, median(whole), product, device)


def print_report(
    parts: list[Part], whole: float, product: MatrixProduct, device: torch.device
) -> None:
    """Print a row for each part.

    Args:
        parts: The parts, timed.
        whole: Seconds of a full step.
        product: The matrix product, timed.
        device: Where it ran.
    """
    rows: dict[str, list[float]] = {}
    for part in parts:
        row = rows.setdefault(part.name, [0, 0.0, 0.0])
        for i, value in enumerate((1, min(part.times), part.flops)):
            row[i] += value
    rows["the rest"] = [1, whole - sum(row[1] for row in rows.values()), 0.0]
    rows["a full step"] = [1, whole, sum(part.flops for part in parts)]
    name, rate = device_name(device), max(product.rates)
    print(
        f"{name}: a {product.precision} matrix product runs at {rate / 1e9:,.0f} GFLOP/s; 'of it': "
        "the share that a part reaches\n"
    )
    print(f"{'part':<34}{'calls':>6}{'ms':>9}{'share':>7}{'GFLOP':>9}{'of it':>7}")
    order = sorted(
        rows.items(),
        key=lambda item: (item[0] == "a full step", item[0] == "the rest", -item[1][1]),
    )
    for part, (calls, seconds, flops) in order:
        gflop = f"{flops / 1e9:.2f}" if flops else "-"
        reached = f"{flops / seconds / rate:.0%}" if flops else "-"
        print(
            f"{part:<34}{calls:>6}{1000 * seconds:>9.1f}{seconds / whole:>7.0%}"
            f"{gflop:>9}{reached:>7}"
        )


if __name__ == "__main__":
    run_script(main)
