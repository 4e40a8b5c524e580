r"""How fast is training, and how near to what the processor can do?

    python -m train.benchmark_throughput
    python -m train.benchmark_throughput --stages base sr_256 --batch 16 64 \
        --precision bf16 fp32 --compile off on --out outputs/throughput.json
    python -m train.benchmark_throughput --stages base sr_256 --batch 512 \
        --cuda-graph num_workers=10

The last line is for a GPU, which does not wait: batches come from other processes.

Times steps of the training loop itself, as `train.train` runs it. Rounds take turns, so that a busy
machine is busy for all of them; the median round counts. FLOPs are counted by torch (matrix
products and convolutions, forward and backward). They are compared with the rate of a large matrix
product that takes its turn in the same rounds: their quotient is the model FLOP utilisation, MFU.

With diffusers installed, its UNet2DConditionModel is trained beside ours, on the same images and
text, by the same loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder
from imagen_mini.training.config import TRAIN_PRESETS, override_run
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import train
from imagen_mini.utils.devices import available_device, device_name
from imagen_mini.utils.precision import DTYPES, PRECISIONS, resolve_precision
from imagen_mini.utils.scripts import check_output_file, integer, run_script, script_parser
from imagen_mini.weights import WEIGHTS
from train.baselines import build_for_training

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}  # side of the matrices whose product is timed


class FixedLengthTextEncoder(nn.Module):
    """A text encoder whose prompts all have `length` tokens: embeddings are repeated or cut."""

    def __init__(self, encoder: TextEncoder, length: int):
        super().__init__()
        self.encoder, self.length = encoder, length

    def forward(self, prompts: list[str]) -> TextEmbeddings:
        text = self.encoder(prompts)
        emb = text.emb.repeat(1, -(-self.length // text.emb.shape[1]), 1)[:, : self.length]
        return TextEmbeddings(emb, torch.ones(emb.shape[:2], dtype=torch.bool, device=emb.device))


class TimedTraining:
    """One way to train, timed a round at a time.

    Args:
        network: The name of a stage, or "diffusers".
        precision: One of PRECISIONS.
        batch: Images a step.
        compiled: Whether the network is compiled.
        length: Tokens of every prompt; 0 leaves them as they are.
        encoder: The text encoder.
        args: The options of the command line.
    """

    def __init__(
        self,
        network: str,
        precision: str,
        batch: int,
        compiled: bool,
        length: int,
        encoder: TextEncoder,
        args: argparse.Namespace,
    ):
        name, device = "base" if network == "diffusers" else network, torch.device(args.device)
        self.what = {
            "network": network,
            "precision": precision,
            "batch": batch,
            "compiled": compiled,
            "text_length": length or None,
        }
        config, stage_config = override_run(
            TRAIN_PRESETS[args.preset][name], PRESETS[args.preset][name], args.overrides
        )
        config = replace(
            config,
            steps=10**9,
            batch_size=batch,
            gradient_accumulation_steps=1,
            precision=precision,
        )
        stage, optimizers = build_for_training(
            "diffusers" if network == "diffusers" else "ours", stage_config, config, device
        )
        encoder = FixedLengthTextEncoder(encoder, length) if length else encoder
        self.parameters, self.batch, self.round, self.device, self.times = (
            sum(p.numel() for p in stage.parameters()),
            batch,
            args.round,
            device,
            [],
        )
        self.flops = flops_per_image(stage, encoder)
        if compiled:
            stage.net.compile()
        self.steps = train(
            stage,
            encoder,
            config,
            optimizers,
            EMA(stage.net, config.ema_half_life),
            cuda_graph=args.cuda_graph,
        )
        next(self.steps)  # the first step allocates, compiles, picks kernels

    def time(self) -> None:
        """Time one round."""
        start = time.perf_counter()
        for _ in range(self.round):
            next(self.steps)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append((time.perf_counter() - start) / self.round)

    def row(self, peak_rate: float) -> dict:
        """Return what was measured; `peak_rate` is the rate of the matrix product in FLOP/s."""
        rate = self.batch / median(self.times)
        return {
            **self.what,
            "parameters": self.parameters,
            "images_per_second": round(rate, 1),
            "gflop_per_image": round(self.flops / 1e9, 2),
            "gflop_per_second": round(rate * self.flops / 1e9, 1),
            "mfu": round(rate * self.flops / peak_rate, 3),
        }


def flops_per_image(stage: DiffusionStage, encoder: nn.Module, batch: int = 2) -> float:
    """Return the FLOPs of a forward and a backward pass, counted on a small batch in float32."""
    unet, device = stage.config.unet, stage.net.out.weight.device
    x_0, low_res, captions = SceneDataset(world=stage.config.world).batch(
        range(batch), unet.image_size, unet.low_res_size, device
    )
    t = torch.full((batch,), 0.5, device=device)
    low = (
        {}
        if low_res is None
        else {"low_res": low_res, "aug_level": t, "low_res_noise": torch.randn_like(low_res)}
    )
    text = encoder(captions)
    with FlopCounterMode(display=False) as counter:
        stage.loss(x_0, text, t, torch.randn_like(x_0), use_pooled=t, **low).mean().backward()
    stage.zero_grad(set_to_none=True)
    return counter.get_total_flops() / batch


class MatrixProduct:
    """The rate of a large matrix product in FLOP/s: what the processor can do. It is in bf16 where
    that is faster, else in float32.
    """

    def __init__(self, device: torch.device):
        self.n, self.device, self.rates = (
            MATRIX_SIDE["cuda" if device.type == "cuda" else "cpu"],
            device,
            [],
        )
        self.precision = resolve_precision("auto", device)
        self.a, self.b = (
            torch.randn(self.n, self.n, device=device, dtype=DTYPES[self.precision])
            for _ in range(2)
        )
        self.a @ self.b

    def time(self, repeats: int = 8) -> None:
        """Time a few products and add their rate to `rates`."""
        start = time.perf_counter()
        for _ in range(repeats):
            self.a @ self.b
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.rates.append(repeats * 2 * self.n**3 / (time.perf_counter() - start))


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in GB of the device, or of this process so far."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    return round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024)
        / 1e9,
        2,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mini")
    parser.add_argument(
        "--stages",
        nargs="+",
        default=["base"],
        metavar="STAGE",
        help="base, sr_256 (default: base)",
    )
    parser.add_argument("--batch", nargs="+", type=integer(low=1), default=[32])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["auto"])
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), default=["off"])
    parser.add_argument(
        "--cuda-graph",
        "--graph",
        action="store_true",
        help="on a GPU: a step recorded once and replayed",
    )
    parser.add_argument(
        "--text-length",
        nargs="+",
        type=integer(low=0),
        default=[0],
        help="tokens of every prompt; 0: as the captions are (default)",
    )
    parser.add_argument("--no-diffusers", action="store_true", help="leave diffusers' network out")
    parser.add_argument("--rounds", type=integer(low=1), default=5)
    parser.add_argument(
        "--round", type=integer(low=1), default=4, help="steps of a round (default: 4)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=integer(low=1), help="CPU threads (default: torch's choice)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/throughput.json"))
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes of the recipe or, with 'stage.' before them, of the stage: optimizer=adamw "
        "stage.unet.image_size=128",
    )
    args = parser.parse_intermixed_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    if unknown := set(args.stages) - set(PRESETS[args.preset]):
        parser.error(
            f"--stages {', '.join(sorted(unknown))}: the preset {args.preset} has "
            f"{', '.join(PRESETS[args.preset])}"
        )
    check_output_file(args.out, suffixes=())
    device = available_device(args.device)
    encoder = TextEncoder.from_pretrained(WEIGHTS / "text_encoder").to(device)
    networks = list(args.stages)
    if "base" in networks and not args.no_diffusers and importlib.util.find_spec("diffusers"):
        networks.append("diffusers")
    ways = itertools.product(
        networks, args.precision, args.batch, (c == "on" for c in args.compile), args.text_length
    )
    product, runs = MatrixProduct(device), []
    for way in tqdm(list(ways), desc="setting up"):
        runs.append((TimedTraining(*way, encoder, args), peak_memory(device)))
    for _ in tqdm(range(args.rounds), desc="rounds"):
        product.time()
        for run, _ in runs:
            run.time()
    rate = median(product.rates)
    name = device_name(device)
    rows = [{**run.row(rate), "peak_memory_gb_so_far": memory} for run, memory in runs]
    print(
        f"{name}: a {product.precision} product of {product.n} x {product.n} matrices runs at "
        f"{rate / 1e9:,.0f} GFLOP/s"
    )
    print(
        f"{'network':<10}{'precision':>10}{'batch':>6}{'compiled':>9}{'text':>6}{'parameters':>12}"
        f"{'GFLOP/img':>10}{'img/s':>8}{'GFLOP/s':>9}{'MFU':>6}"
    )
    for r in rows:
        compiled, length = "yes" if r["compiled"] else "no", r["text_length"] or "-"
        print(
            f"{r['network']:<10}{r['precision']:>10}{r['batch']:>6}{compiled:>9}{length:>6}"
            f"{r['parameters']:>12,}{r['gflop_per_image']:>10}{r['images_per_second']:>8}"
            f"{r['gflop_per_second']:>9,.0f}{r['mfu']:>6.0%}"
        )
    args.out.write_text(
        json.dumps(
            {"device": name, "matrix_product_gflop_per_second": round(rate / 1e9, 1), "rows": rows},
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    run_script(main)
