"""What a training step is computed on: batches, their noise levels and their noise, as functions of
seed and step.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.base import Alternatives, Batch, BatchPlan, Dataset, plan_batch
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.config import TrainConfig
from imagen_mini.utils.rng import generator, randn_blocked

FIXED_LENGTH = 32  # tokens; the longest caption of the built-in world has 31


def draw_step_variables(config: TrainConfig, stage: DiffusionStage, step: int) -> dict[str, Tensor]:
    """What is random in a step but the noise, for its whole batch: t, whose text is dropped,
    whether the pooled text is used, aug_level; each [b]; and how far each of the two places is on
    its way to a twin, [b, 2], or the image to a mistake, [b].

    Times are stratified: one in each of b equally likely parts of [0, 1], which lowers the variance
    of the loss and leaves each t its density, t^(time_power - 1).
    """
    g, b = generator(config.seed, "train", stage.config.name, step), config.batch_size
    out = {
        "t": ((torch.randperm(b, generator=g) + torch.rand(b, generator=g)) / b)
        ** (1 / config.time_power),
        "drop": torch.rand(b, generator=g) < config.drop_text,
        "use_pooled": (torch.rand(b, generator=g) >= config.drop_pooled).float(),
    }
    if stage.is_super_resolution:
        out["aug_level"] = torch.rand(b, generator=g) * stage.config.max_aug_level
    if config.twins or config.mistakes:
        which = torch.rand(b, 1, generator=g)
        out["equivalent_mix"] = equivalent_mix_weights(b, g) * (which < config.twins)
        mistake = torch.where(torch.rand(b, generator=g) < 0.5, 1.0, torch.rand(b, generator=g))
        out["mistake"] = (
            mistake
            * ((which >= config.twins) & (which < config.twins + config.mistakes)).squeeze(1)
            * ~out["drop"]
        )
    return out


def equivalent_mix_weights(b: int, g: torch.Generator) -> Tensor:
    """[b, 2] in [0, 1]: half of the time one place is half way and the other itself, and else both
    are anywhere.
    """
    one = torch.eye(2)[torch.randint(2, (b,), generator=g)] / 2
    return torch.where(torch.rand(b, 1, generator=g) < 0.5, one, torch.rand(b, 2, generator=g))


MIX_BELOW_LOG_SNR = 1.0  # the log-SNR above which no walk is undecided any more


def mix_alternatives(
    x_0: Tensor,
    alternatives: Alternatives,
    equivalent_mix: Tensor,
    mistake: Tensor,
    log_snr: Tensor,
) -> dict[str, Tensor]:
    """What `DiffusionStage.loss` is to show instead of x_0, and which second image is as likely.

    Towards twins: each of the two places is so far, `equivalent_mix` [b, 2] in [0, 1], on its way.
    A walk from noise comes through such images as long as x_0_hat has not decided what stands
    where; plain training sees none. Where one place is half way, only the other tells what belongs
    there. With a mistake: the whole image is so far, `mistake` [b] in [0, 1], one that the caption
    says is wrong; what is right is still x_0. At less noise than `MIX_BELOW_LOG_SNR` images are
    x_0.
    """
    undecided = (log_snr < MIX_BELOW_LOG_SNR).to(x_0.dtype)[:, None, None, None]
    first, second = equivalent_mix[:, :, None, None, None].unbind(1)
    mistake = mistake[:, None, None, None]
    shown = torch.lerp(
        x_0, alternatives.twins, undecided * torch.lerp(second, first, alternatives.side)
    )
    return {
        "shown": torch.lerp(shown, alternatives.mistaken, undecided * mistake),
        "other": torch.where(mistake > 0, x_0, alternatives.twins),
    }


def draw_noise(
    config: TrainConfig, stage: DiffusionStage, numbers: Sequence[int], batch: Batch
) -> dict[str, Tensor]:
    """The noise of the samples of these numbers. On a GPU it is drawn there: other numbers than a
    CPU's, but still functions of each sample's.
    """
    device = batch.images.device

    def noise(of: Tensor, purpose: str) -> Tensor:
        return randn_blocked(
            numbers, of.shape[1:], "train", config.seed, stage.config.name, purpose, device=device
        )

    return {"eps": noise(batch.images, "eps")} | (
        {} if batch.low_res is None else {"low_res_noise": noise(batch.low_res, "low_res")}
    )


class MicroBatches(TorchDataset):
    """Asked for the numbers of some samples, gives these, their draft, and their captions as the
    text encoder takes them.
    """

    def __init__(
        self, data: Dataset, tokenize: Callable | None, stage: DiffusionStage, alternatives: bool
    ):
        self.data, self.tokenize, self.alternatives = data, tokenize, alternatives
        self.size, self.low = stage.config.unet.image_size, stage.config.unet.low_res_size

    def __getitem__(self, numbers: range) -> tuple[range, BatchPlan, tuple[Tensor, Tensor] | None]:
        draft = plan_batch(self.data, numbers, self.size, self.low, self.alternatives)
        return numbers, draft, None if self.tokenize is None else self.tokenize(draft.captions)


def _inputs(
    data: Dataset,
    encoder: TextEncoder,
    stage: DiffusionStage,
    config: TrainConfig,
    parts: list[range],
    start: int,
    device: torch.device,
    fixed_length: bool,
) -> Iterator[dict[str, Tensor]]:
    """What `DiffusionStage.loss` is given for each of this rank's parts of every step, with text as
    `emb` and `mask`.

    What is in a batch is decided here, or ahead of time by `config.workers` processes. With
    `fixed_length` texts are padded, to nearly always the same length.
    """
    tokenize = (
        encoder.tokenize_fn() if config.workers and isinstance(encoder, TextEncoder) else None
    )
    dataset, b = (
        MicroBatches(data, tokenize, stage, config.twins + config.mistakes > 0),
        config.batch_size,
    )
    asked = (
        range(step * b + part.start, step * b + part.stop)
        for step in range(start, config.steps)
        for part in parts
    )
    drafts = (
        map(dataset.__getitem__, asked)
        if not config.workers
        else DataLoader(
            dataset,
            batch_size=None,
            sampler=asked,
            num_workers=config.workers,
            collate_fn=_identity,
            worker_init_fn=_leave_signals_to_parent,
        )
    )
    for numbers, draft, tokens in drafts:
        batch, alternatives = draft.on(device)
        text = encoder(batch.captions) if tokens is None else encoder.encode(*tokens)
        step, first = divmod(numbers[0], b)
        random = {
            k: v[first : first + len(numbers)].to(device)
            for k, v in draw_step_variables(config, stage, step).items()
        }
        way = {name: random.pop(name) for name in ("equivalent_mix", "mistake") if name in random}
        text = text.drop(random.pop("drop")).to(torch.float32)
        text = text.pad(-len(text.mask[0]) % FIXED_LENGTH) if fixed_length else text
        inputs = (
            {"x_0": batch.images, "emb": text.emb, "mask": text.mask}
            | random
            | draw_noise(config, stage, numbers, batch)
        )
        if batch.low_res is not None:
            inputs["low_res"] = batch.low_res
        if alternatives is not None:
            inputs |= mix_alternatives(
                batch.images, alternatives, **way, log_snr=stage.log_snr_of(random["t"])
            )
        yield inputs


def _identity(part):
    return part


def _leave_signals_to_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
