"""The overfit check: can the network and the training loop memorise eight images, each by its
caption?

    python -m train.overfit --out overfit.png
    python -m train.overfit --shuffle-captions       # this must fail

A network that cannot do this in a minute will not learn a world in a day. Run it first after every
change to the network, the loss, the optimizer or the sampler. Exits with 1 if it fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.cascade.config import StageConfig
from imagen_mini.cascade.sampling import sample_from_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.base import Batch
from imagen_mini.evaluation.metrics import psnr
from imagen_mini.evaluation.scoring import verdict_text
from imagen_mini.models.unet import UNetConfig
from imagen_mini.scenes.captions import Caption, training_caption
from imagen_mini.scenes.parse import ParsedScene, parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import training_scene
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import train
from imagen_mini.training.optimizers import make_optimizers
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.rng import generator, randn
from imagen_mini.utils.scripts import check_output_file, integer, number, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.weights import WEIGHTS

IMAGES = 8
MIN_PSNR = 20.0  # dB: an error of a tenth of the range from black to white
NETWORK = StageConfig(
    "base",
    UNetConfig(patch=8, channels=(96, 128), blocks=(1, 1), attention=("cross", "self+cross")),
    log_snr_shift=-1.0,
    num_inference_steps=10,
    guidance_scale=1.0,
)


@dataclass(frozen=True)
class Outcome:
    """One caption's image and the sample for it, [3, 64, 64].

    Args:
        caption, target, sample: The caption, the image to be learned, and the sample.
        psnr: Between the two images, in dB.
        same_objects: Whether both show the same objects on the same background.
        verdict: The parser's, on the sample. It may be "unreadable" although the objects are the
            same: faint traces of other images stay for some hundred steps more.
    """

    caption: Caption
    target: Tensor
    sample: Tensor
    psnr: float
    same_objects: bool
    verdict: str

    @property
    def learned(self) -> bool:
        """Whether the sample is close to the image, with the same objects."""
        return self.psnr >= MIN_PSNR and self.same_objects


class Few:
    """A data set of a few images, in turn, without end.

    Args:
        captions: n captions.
        images: [n, 3, h, w].
        shuffle_captions: Give each image a random caption each time.
    """

    def __init__(self, captions: list[str], images: Tensor, shuffle_captions: bool):
        self.captions, self.images, self.shuffle_captions = captions, images, shuffle_captions

    def batch(self, indices: Sequence[int], *_) -> Batch:
        """The samples with these indices (see `data.base.Dataset`)."""
        of = [divmod(index, len(self.captions)) for index in indices]
        said = [
            torch.randperm(len(self.captions), generator=generator(turn, "shuffle"))[i]
            if self.shuffle_captions
            else i
            for turn, i in of
        ]
        return Batch(self.images[[i for _, i in of]], None, [self.captions[i] for i in said])


def shown(parsed: ParsedScene) -> tuple:
    """The background and the objects that could be read, without their places."""
    objects = sorted((o.shape, o.color, o.size) for o in parsed.objects)
    return parsed.background, objects


def judge_samples(captions: list[Caption], targets: Tensor, samples: Tensor) -> list[Outcome]:
    """Compare samples with the images to be learned, both [b, 3, 64, 64]."""
    values = psnr(targets, samples).tolist()
    return [
        Outcome(
            caption,
            target,
            sample,
            value,
            shown(read) == shown(true),
            verdict_text(caption.description, read),
        )
        for caption, target, sample, value, true, read in zip(
            captions, targets, samples, values, parse_image(targets), parse_image(samples)
        )
    ]


def overfit(
    encoder: TextEncoder, config: TrainConfig, shuffle_captions: bool = False
) -> list[Outcome]:
    """Train a small network on eight images, then sample their captions with its average weights.

    Args:
        encoder: The text encoder, on the device to train on.
        config: The training settings.
        shuffle_captions: Give each image a random caption at each step, so that captions tell
            nothing.

    Returns:
        The outcome for each image.
    """
    device = encoder.model.device
    scenes = [training_scene(config.seed, i) for i in range(IMAGES)]
    captions = [training_caption(scene, config.seed, i) for i, scene in enumerate(scenes)]
    texts = [caption.text for caption in captions]
    targets = render(scenes, NETWORK.unet.image_size, device)
    torch.manual_seed(config.seed)
    stage = DiffusionStage(NETWORK).to(device, memory_format=torch.channels_last)
    optimizers = make_optimizers(
        stage.net, config.optimizer, config.learning_rate, config.betas, config.weight_decay
    )
    ema = EMA(stage.net, config.ema_half_life)
    steps = tqdm(
        train(stage, encoder, config, optimizers, ema, data=Few(texts, targets, shuffle_captions)),
        total=config.steps,
        desc="overfit",
        unit="step",
    )
    try:
        for state in steps:
            if state.step % 10 == 0:
                steps.set_postfix(loss=f"{state.loss:.4f}")
    except FloatingPointError as error:  # the check has failed; the images show how far it came
        print(error)
    stage.net.load_state_dict(ema.weights)
    stage.eval()
    x_T = randn(range(IMAGES), targets.shape[1:], "overfit", device=device)
    samples = sample_from_stage(stage, encoder(texts), range(IMAGES), x_T=x_T)
    return judge_samples(captions, targets.cpu(), samples.float().cpu())


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--steps",
        type=integer(low=1),
        default=150,
        help="of 16 images, two of each (default: 150)",
    )
    parser.add_argument(
        "--optimizer", default="muon", help="muon, adamw or adafactor (default: muon)"
    )
    parser.add_argument("--learning-rate", type=number(above=0), default=4e-3)
    parser.add_argument(
        "--shuffle-captions",
        action="store_true",
        help="sabotage: at each step, each image gets the caption of any of the eight",
    )
    parser.add_argument(
        "--text-encoder",
        default=str(WEIGHTS / "text_encoder"),
        help="a T5 encoder: folder or hub name (default: the shipped one)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("overfit.png"),
        help="the images, and below each its sample (default: overfit.png)",
    )
    args = parser.parse_args(arguments)
    check_output_file(args.out)
    device = available_device(args.device)
    config = TrainConfig(
        steps=args.steps,
        batch_size=2 * IMAGES,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate,
        lr_schedule="cosine",
        warmup=20,
        ema_half_life=20,
        cond_drop_prob=0.0,
        pooled_drop_prob=0.0,
    )
    outcomes = overfit(
        TextEncoder.from_pretrained(args.text_encoder).to(device),
        config,
        args.shuffle_captions,
    )
    for o in outcomes:
        print(f"{o.psnr:5.1f} dB  {o.caption.text!r}: {o.verdict}")
    labels = [o.caption.text for o in outcomes] + [f"{o.psnr:.1f} dB" for o in outcomes]
    borders = [None] * IMAGES + [o.learned for o in outcomes]
    image_grid(
        [o.target for o in outcomes] + [o.sample for o in outcomes],
        labels,
        columns=IMAGES,
        cell=128,
        borders=borders,
    ).save(args.out)
    learned = sum(o.learned for o in outcomes)
    print(
        f"{'PASS' if learned == IMAGES else 'FAIL'}: {learned} of {IMAGES} images learned (at "
        f"least {MIN_PSNR:.0f} dB, with the same objects); {args.out}"
    )
    if learned < IMAGES:
        raise SystemExit(1)


if __name__ == "__main__":
    run_script(main)
