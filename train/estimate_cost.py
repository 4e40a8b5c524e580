"""What would training cost? Computed on shapes: nothing is allocated, so any size will do. And
measured, where it fits.

    python -m train.estimate_cost
    python -m train.estimate_cost --growth
    python -m train.estimate_cost --growth --measure
    python -m train.estimate_cost --preset paper --gpus 64

The first line lists every stage of every preset with its parameters, FLOPs and memory. `--growth`
shows how the cost grows with image size, width, depth, tokens and batch, and `--measure` adds how
long it takes here. `--gpus` estimates a recipe on so many GPUs: how long it takes and what each
must hold, with the arithmetic.

FLOPs are torch's count, forward and backward. Memory of activations is what autograd keeps for the
backward pass in bf16, counted on shapes alone (fake tensors), with attention in one kernel as on a
GPU. What cannot be counted is assumed, and printed: the GPU's peak rate, and the share of it that
training reaches (MFU).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from imagen_mini.cascade.config import PRESETS
from imagen_mini.models.unet import UNet, UNetConfig
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.training.config import TRAIN_PRESETS, override_run
from imagen_mini.utils.devices import available_device, channels_last_on_cpu
from imagen_mini.utils.precision import compute_dtype
from imagen_mini.utils.scripts import integer, number, run_script, script_parser

H100_FLOPS = 989e12  # FLOP/s in bf16, dense, by its data sheet
# Bytes a parameter: weight, its average, gradient, in float32; and what the optimizer keeps. That
# of Adafactor depends on the shapes (`adafactor_means`).
STATE_BYTES = {"adamw": 12 + 8, "muon": 12 + 4, "adafactor": 12}


@dataclass(frozen=True)
class TrainingCost:
    """The cost of training a network on one image.

    Attributes:
        parameters: Their number.
        flops: FLOPs of a forward and a backward pass.
        activations: Bytes kept for the backward pass.
        checkpointed: The same with gradient checkpointing, while the largest level is recomputed.
        adafactor_means: How many numbers Adafactor keeps.
    """

    parameters: int
    flops: int
    activations: int
    checkpointed: int
    adafactor_means: int

    def state_bytes(self, optimizer: str) -> float:
        """Bytes a parameter of what training keeps beside activations."""
        means = self.adafactor_means if optimizer == "adafactor" else 0
        return STATE_BYTES[optimizer] + 4 * means / self.parameters


def adafactor_means(shape: Sequence[int]) -> int:
    """How many numbers Adafactor keeps for a parameter: means of the last axis and of the one
    before, or all squares of a parameter with one axis.
    """
    if len(shape) < 2:
        return prod(shape)
    *rest, rows, columns = shape
    return prod(rest) * (rows + columns)


def training_cost(config: UNetConfig, text_length: int = 24) -> TrainingCost:
    """Count a training step of one image.

    Args:
        config: The network.
        text_length: Tokens of the prompt (default: 24).
    """
    with FakeTensorMode():
        net = UNet(config)
        with FlopCounterMode(display=False) as counter:
            _forward(net, 1, text_length).backward()
        net.zero_grad(set_to_none=True)
        # which FlopCounterMode would not count
        with patch("imagen_mini.models.attention.fused_attention", _one_kernel):
            one, kept = _kept(net, 1, text_length), _kept(net, 2, text_length)
    # what is kept once for the whole batch, as weights in bf16, is not an image's
    kept.subtract(one)
    stacks = [n for what, n in kept.items() if what.startswith("in ")]
    return TrainingCost(
        sum(p.numel() for p in net.parameters()),
        counter.get_total_flops(),
        kept["outside"] + sum(stacks),
        kept["outside"] + kept["into stacks"] + max(stacks),
        sum(adafactor_means(p.shape) for p in net.parameters()),
    )


def _one_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention in one kernel, as on a GPU: its probabilities are not kept."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _forward(net: UNet, batch: int, text_length: int) -> Tensor:
    """Return the loss on images of zeros."""
    c, at = net.config, {"device": net.out.weight.device}
    x, number = torch.zeros(batch, 3, c.image_size, c.image_size, **at), torch.zeros(batch, **at)
    text = TextEmbeddings(
        torch.zeros(batch, text_length, c.text_width, **at),
        torch.ones(batch, text_length, dtype=torch.bool, **at),
    )
    low = (
        ()
        if c.low_res_size is None
        else (torch.zeros(batch, 3, c.low_res_size, c.low_res_size, **at), number)
    )
    return (net(x, number, text, *low, use_pooled=number).float() - x).square().mean()


def _kept(net: UNet, batch: int, text_length: int) -> Counter:
    """Count the bytes kept for the backward pass in each level, outside of them, and of the levels'
    inputs.
    """
    counts, seen, place = Counter(), [], ["outside"]
    known = {p.untyped_storage()._cdata for p in net.parameters()}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            seen.append(x)  # alive, or another storage could take its number
            counts[place[0]] += storage.nbytes()
        return x

    def enter(number: int):
        def hook(_, inputs):
            place[0] = f"in {number}"
            counts["into stacks"] += inputs[0].nbytes

        return hook

    def leave(*_) -> None:
        place[0] = "outside"

    hooks = [
        hook
        for i, stack in enumerate(net.levels())
        for hook in (stack.register_forward_pre_hook(enter(i)), stack.register_forward_hook(leave))
    ]
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", torch.bfloat16),
    ):
        _forward(net, batch, text_length)
    for hook in hooks:
        hook.remove()
    return counts


# ---------------------------------------------------------------- what is printed


def print_sizes() -> None:
    """Print a row for each stage of each preset."""
    print(
        f"{'preset':8} {'stage':8} {'parameters':>12} {'GFLOP an image':>16} "
        f"{'activations':>12} {'checkpointed':>13}"
    )
    for preset, stages in PRESETS.items():
        for name, stage in stages.items():
            of = training_cost(stage.unet)
            print(
                f"{preset:8} {name:8} {of.parameters / 1e6:10.1f} M {of.flops / 1e9:16.2f} "
                f"{of.activations / 1e6:9.1f} MB {of.checkpointed / 1e6:10.1f} MB"
            )


def milliseconds(config: UNetConfig, text_length: int, batch: int, device: torch.device) -> float:
    """Measure a forward and a backward pass.

    Args:
        config: The network.
        text_length: Tokens of the prompts.
        batch: Images at once.
        device: Where to run.

    Returns:
        Milliseconds an image, of the fastest of a few passes after one that warms up.
    """
    net = UNet(config).to(device, memory_format=channels_last_on_cpu(device))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast(
            device.type, torch.bfloat16, enabled=compute_dtype("auto", device) == torch.bfloat16
        ):
            loss = _forward(net, batch, text_length)
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 1000 * min(times[1:]) / batch


def print_growth(
    preset: str, assignments: list[str], measure_on: torch.device | None = None
) -> None:
    """Print how the cost grows if one size at a time changes, from the base stage of a preset.

    Args:
        preset: A key of PRESETS.
        assignments: Changes of the recipe and the stage, as key=value.
        measure_on: Where to measure the time as well (default: not measured).
    """
    unet = override_run(TRAIN_PRESETS[preset]["base"], PRESETS[preset]["base"], assignments)[1].unet
    variants = {
        "images of (pixels)": [
            (size, replace(unet, image_size=size), 24, 8) for size in (32, 64, 128, 256)
        ],
        "channels times": [
            (f, replace(unet, channels=tuple(c * f for c in unet.channels)), 24, 8)
            for f in (1, 2, 4)
        ],
        "blocks times": [
            (f, replace(unet, blocks=tuple(b * f for b in unet.blocks)), 24, 8) for f in (1, 2, 4)
        ],
        "tokens of text": [(n, unet, n, 8) for n in (8, 24, 64, 256)],
    }
    if measure_on is not None:  # computed, a batch costs what its images cost
        variants["images at once"] = [(batch, unet, 24, batch) for batch in (1, 8, 32, 128)]
    print(
        f"base stage of {preset}"
        + ("" if measure_on is None else f", measured on {measure_on}, 8 images at once")
        + ", by\n"
    )
    print(
        f"{'':22} {'':>5} {'parameters':>12} {'GFLOP an image':>16} {'activations':>12} "
        f"{'checkpointed':>13}" + (f"{'ms an image':>14} {'GFLOP/s':>9}" if measure_on else "")
    )
    for what, rows in variants.items():
        for value, config, length, batch in rows:
            of = training_cost(config, length)
            took = milliseconds(config, length, batch, measure_on) if measure_on else None
            print(
                f"{what:22} {value:>5} {of.parameters / 1e6:10.1f} M {of.flops / 1e9:16.2f} "
                f"{of.activations / 1e6:9.1f} MB {of.checkpointed / 1e6:10.1f} MB"
                + ("" if took is None else f"{took:14.2f} {of.flops / 1e6 / took:9.0f}"),
                flush=True,
            )
            what = ""


def print_gpu_estimate(
    preset: str, gpus: int, rate: float, mfu: float, assignments: list[str]
) -> None:
    """Print how long a preset's recipe takes on GPUs, and what each GPU holds.

    `--shard` spreads weights, average, gradients and AdamW's moments over them.

    Args:
        preset: A key of PRESETS.
        gpus: The number of GPUs.
        rate: The peak rate of one in FLOP/s.
        mfu: The share of it that training reaches.
        assignments: Changes of the recipes and the stages, as key=value.
    """
    total = 0.0
    print(
        f"{gpus} GPUs of {rate / 1e12:.0f} TFLOP/s in bf16, of which training is assumed to "
        f"reach {mfu:.0%}\n"
    )
    for name, stage in PRESETS[preset].items():
        recipe, stage = override_run(TRAIN_PRESETS[preset][name], stage, assignments)
        of = training_cost(stage.unet)
        at_once, again = (
            recipe.batch_size // (gpus * recipe.gradient_accumulation_steps),
            recipe.gradient_checkpointing,
        )
        if not at_once:
            raise SystemExit(
                f"a batch of {recipe.batch_size} cannot be split among {gpus} GPUs in "
                f"{recipe.gradient_accumulation_steps} parts each: "
                "fewer of both, or a larger batch_size"
            )
        flops = of.flops * (4 / 3 if again else 1)  # the forward pass, a third of it, is done again
        work = recipe.steps * recipe.batch_size * flops
        hours = work / (gpus * rate * mfu) / 3600
        bytes_each, spread = (
            of.state_bytes(recipe.optimizer),
            gpus if recipe.optimizer == "adamw" else 1,
        )
        state, kept, moving = (
            of.parameters * bytes_each / spread,
            at_once * (of.checkpointed if again else of.activations),
            of.parameters * 2,
        )
        total += hours
        print(f"{preset} {name}: {of.parameters / 1e6:,.0f} M parameters, {recipe.optimizer}")
        print(
            f"  work         {recipe.steps:,} steps x {recipe.batch_size:,} images x "
            f"{flops / 1e9:,.0f} GFLOP{', the forward pass twice' if again else ''} = "
            f"{work:.2e} FLOP"
        )
        print(
            f"  time         / ({gpus} x {rate / 1e12:.0f} TFLOP/s x {mfu:.0%}) = {hours:,.1f} "
            "hours"
        )
        print(
            f"  state        {of.parameters / 1e6:,.0f} M x {bytes_each:.4g} bytes / {spread} = "
            f"{state / 1e9:.1f} "
            f"GB{', spread by --shard' if spread > 1 else ', a copy on each GPU'}"
        )
        print(
            f"  activations  {at_once} images at once x {kept / at_once / 1e6:,.0f} "
            f"MB{', checkpointed' if again else ''} = {kept / 1e9:.1f} GB"
        )
        print(
            f"  weights      {of.parameters / 1e6:,.0f} M x 2 bytes, in bf16, at most all at "
            f"once = {moving / 1e9:.1f} GB;  in all {(state + kept + moving) / 1e9:.1f} GB a "
            "GPU\n"
        )
    print(
        f"all stages: {total / 24:,.1f} days, {total * gpus:,.0f} GPU hours. Not in it: the "
        "text encoder (cached, or a forward pass an image), data, communication."
    )


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mini")
    parser.add_argument(
        "--growth", action="store_true", help="how cost grows, from the base stage of --preset"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="with --growth: also how long a forward and a backward pass take on --device",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--gpus", type=integer(low=1), metavar="N", help="the recipe of --preset on N GPUs"
    )
    parser.add_argument(
        "--rate",
        type=number(above=0),
        default=H100_FLOPS,
        help="of one GPU in FLOP/s (default: an H100's, 989e12)",
    )
    parser.add_argument(
        "--mfu",
        type=number(above=0, high=1),
        default=0.4,
        help="share of it that training reaches (default: 0.4, an assumption)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="with --growth or --gpus: changes of the recipes or, with 'stage.' before them, of "
        "the stages: gradient_accumulation_steps=4 gradient_checkpointing=true",
    )
    args = parser.parse_intermixed_args(arguments)
    if args.gpus is not None:
        print_gpu_estimate(args.preset, args.gpus, args.rate, args.mfu, args.overrides)
    elif args.growth:
        print_growth(
            args.preset, args.overrides, available_device(args.device) if args.measure else None
        )
    else:
        print_sizes()


if __name__ == "__main__":
    run_script(main)
