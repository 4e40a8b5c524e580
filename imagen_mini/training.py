"""The training loop, as a generator: `for state in train(...)` may log, draw, save, or stop at any step.

Nothing random is kept between steps. What a sample is, is a function of its number; when it is noised and whether its text is
dropped, of the step; its noise, of its number again. So neither resuming nor the number of processes changes anything.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imagen_mini.cascade.stage import Stage
from imagen_mini.cascade.config import TrainConfig
from imagen_mini.data.base import Alternatives, Batch, Data, Draft, draft_of
from imagen_mini.data.synthetic import Scenes
from imagen_mini.diffusion.losses import LOSS_WEIGHTS
from imagen_mini.distributed import ALONE, Ranks, only_adding_up, replicate, whole
from imagen_mini.graphs import Graphed, aside
from imagen_mini.utils.precision import compute_dtype
from imagen_mini.utils.rng import generator, randn_in_blocks
from imagen_mini.text.encoder import Text, TextEncoder

LEVELS = 10                                            # of noise, equal parts of t in [0, 1], for which losses are told apart
FIXED_LENGTH = 32                                      # tokens; the longest caption of the built-in world has 31


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up; then constant with a linear cool-down to 0 over the last `cooldown` of all steps, a cosine to 0, or constant.

    Imagen (2022), Appendix F: the cosine, with 10,000 steps of warm-up out of 2,500,000.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.rate_schedule == "constant":
        return config.learning_rate * warm
    if config.rate_schedule == "cosine":
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return config.learning_rate * min(warm, max(0.0, left))


class EMA:
    """An exponential moving average of the weights. Its memory grows with the run, up to `half_life` steps."""

    def __init__(self, net: torch.nn.Module, half_life: int):
        self.net, self.half_life = net, half_life
        self.weights = {name: p.detach().clone() for name, p in net.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = 0.5 ** (1 / min(self.half_life, max(1.0, 0.1 * step)))
        current = self.net.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [current[k].detach() for k in self.weights], 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Within this, the network has the average weights; after it, its own again."""
        names, own = zip(*self.net.state_dict().items())
        kept = [w.detach().clone() for w in own]
        torch._foreach_copy_(own, [self.weights[name] for name in names])
        try:
            yield
        finally:
            torch._foreach_copy_(own, kept)


# ---------------------------------------------------------------- what a step is a function of

def step_randomness(config: TrainConfig, stage: Stage, step: int) -> dict[str, Tensor]:
    """What is random in a step but the noise, for its whole batch: t, whose text is dropped, whether the pooled text is used, aug_level; each [b];
    and how far each of the two places is on its way to a twin, [b, 2], or the picture to a mistake, [b].

    Times are stratified: one in each of b equally likely parts of [0, 1], which lowers the variance of the loss and leaves each t
    its density, t^(time_power - 1).
    """
    g, b = generator(config.seed, "train", stage.config.name, step), config.batch_size
    out = {"t": ((torch.randperm(b, generator=g) + torch.rand(b, generator=g)) / b) ** (1 / config.time_power),
           "drop": torch.rand(b, generator=g) < config.drop_text,
           "use_pooled": (torch.rand(b, generator=g) >= config.drop_pooled).float()}
    if stage.is_super_resolution:
        out["aug_level"] = torch.rand(b, generator=g) * stage.config.max_aug_level
    if config.twins or config.mistakes:
        which = torch.rand(b, 1, generator=g)
        out["towards_twin"] = how_far_towards_twin(b, g) * (which < config.twins)
        mistake = torch.where(torch.rand(b, generator=g) < 0.5, 1.0, torch.rand(b, generator=g))
        out["mistake"] = mistake * ((which >= config.twins) & (which < config.twins + config.mistakes)).squeeze(1) * ~out["drop"]
    return out


def how_far_towards_twin(b: int, g: torch.Generator) -> Tensor:
    """[b, 2] in [0, 1]: half of the time one place is half way and the other itself, and else both are anywhere."""
    one = torch.eye(2)[torch.randint(2, (b,), generator=g)] / 2
    return torch.where(torch.rand(b, 1, generator=g) < 0.5, one, torch.rand(b, 2, generator=g))


UNDECIDED_BELOW = 1.0                                  # the log-SNR above which no walk is undecided any more


def on_the_way(x_0: Tensor, alternatives: Alternatives, towards_twin: Tensor, mistake: Tensor, log_snr: Tensor) -> dict[str, Tensor]:
    """What `Stage.loss` is to show in place of x_0, and which second picture is as likely.

    Towards twins: each of the two places is so far, `towards_twin` [b, 2] in [0, 1], on its way. A walk from noise comes through such pictures as long as
    x_0_hat has not decided what stands where; plain training sees none. Where one place is half way, only the other tells what belongs there.
    With a mistake: the whole picture is so far, `mistake` [b] in [0, 1], one that the caption says is wrong; what is right is still x_0.
    At less noise than `UNDECIDED_BELOW` pictures are x_0.
    """
    undecided = (log_snr < UNDECIDED_BELOW).to(x_0.dtype)[:, None, None, None]
    first, second = towards_twin[:, :, None, None, None].unbind(1)
    mistake = mistake[:, None, None, None]
    shown = torch.lerp(x_0, alternatives.twins, undecided * torch.lerp(second, first, alternatives.side))
    return {"shown": torch.lerp(shown, alternatives.mistaken, undecided * mistake), "other": torch.where(mistake > 0, x_0, alternatives.twins)}


def sample_noise(config: TrainConfig, stage: Stage, numbers: Sequence[int], batch: Batch) -> dict[str, Tensor]:
    """The noise of the samples of these numbers. On a GPU it is drawn there: other numbers than a CPU's, but still functions of each sample's."""
    device = batch.pictures.device

    def noise(of: Tensor, purpose: str) -> Tensor:
        return randn_in_blocks(numbers, of.shape[1:], "train", config.seed, stage.config.name, purpose, device=device)

    return {"eps": noise(batch.pictures, "eps")} | ({} if batch.low_res is None else {"low_res_noise": noise(batch.low_res, "low_res")})



# ---------------------------------------------------------------- the loop

@dataclass(frozen=True)
class TrainState:
    """What the loop yields after each step. Losses are those of the whole batch, on every rank."""

    step: int                                          # steps done
    loss: float                                        # mean weighted loss of the step
    gradient_norm: float                               # before clipping
    learning_rate: float
    level_losses: list[float]                          # by level of noise, LEVELS of them: the sum of the losses,
    level_counts: list[int]                            # and of how many samples
    waited: float                                      # seconds that this rank waited for pictures and captions; with `graph` not counted


def train(stage: Stage, encoder: TextEncoder, config: TrainConfig, optimizers: dict[str, torch.optim.Optimizer], ema: EMA, start: int = 0,
          data: Data | None = None, ranks: Ranks = ALONE, graph: bool = False) -> Iterator[TrainState]:
    """Train from step `start` to `config.steps` on `data` (None: the built-in world); yields after every step.

    `graph`: record forward and backward once and replay them, on one GPU (see `graphs`); the next batch is made while it computes.

    Raises FloatingPointError before a bad update, on all ranks together. If a process that reads data dies, DataLoader raises RuntimeError at any point.
    """
    device, b = next(stage.parameters()).device, config.batch_size
    if b < ranks.world * config.accumulate:
        raise ValueError(f"a batch of {b} cannot be shared out among {ranks.world} ranks in {config.accumulate} parts each: raise batch_size")
    dtype = compute_dtype(config.precision, device)
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    stage.train()
    stage.net.checkpoint_gradients(config.gradient_checkpointing)
    model = replicate(stage, ranks)
    mine = ranks.share(b)
    parts = [mine[p[0]:p[-1] + 1] for p in torch.arange(len(mine)).tensor_split(config.accumulate)]

    def weight(log_snr: Tensor) -> Tensor:
        return LOSS_WEIGHTS[config.loss_weight](log_snr, config.loss_cap)

    data = Scenes(config.seed, config.counts) if data is None else data
    if (config.twins or config.mistakes) and not isinstance(data, Scenes):
        raise ValueError(f"twins={config.twins}, mistakes={config.mistakes}: only the built-in world has these; expected 0 here")
    if config.mistakes and stage.is_super_resolution:
        raise ValueError(f"mistakes={config.mistakes}: only a base stage decides what stands where; expected 0 for super-resolution")
    if graph and (device.type != "cuda" or ranks.world > 1 or config.accumulate > 1):
        raise ValueError(f"a graph of a step needs one GPU and accumulate=1; this is {ranks.world} x {device.type} with accumulate={config.accumulate}")

    def forward_and_backward(inputs: dict[str, Tensor]) -> Tensor:
        """The losses of a part. Gradients stay in the parameters; ranks average them."""
        inputs = dict(inputs)
        text = Text(inputs.pop("emb"), inputs.pop("mask"))
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = model(text=text, weight=weight, **inputs)
        (losses.sum() * (ranks.world / b)).backward()
        return losses.detach()

    parts_of_steps, inputs = _inputs(data, encoder, stage, config, parts, start, device, graph), None
    if graph:
        forward_and_backward, parts_of_steps = Graphed(forward_and_backward, list(stage.parameters())), aside(parts_of_steps)
    for step in range(start, config.steps):
        rate = learning_rate(config, step)
        for group in groups:
            group["lr"] = rate
        stage.zero_grad(set_to_none=True)
        levels, waited = torch.zeros(2, LEVELS, device=device), 0.0
        for i in range(len(parts)):
            began = time.perf_counter()
            inputs = next(parts_of_steps) if inputs is None else inputs
            waited += time.perf_counter() - began
            with only_adding_up(model, i < len(parts) - 1):
                losses = forward_and_backward(inputs)
            level = (inputs["t"] * LEVELS).long().clamp(max=LEVELS - 1)
            levels.index_add_(1, level, torch.stack([losses.float(), torch.ones_like(losses, dtype=torch.float32)]))
            inputs = next(parts_of_steps, None) if graph else None
        sums, counts = ranks.sum(levels).tolist()
        norm = float(whole({"norm": torch.nn.utils.clip_grad_norm_(stage.parameters(), config.clip)})["norm"])
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step} of stage {stage.config.name}: loss {sum(sums) / b}, gradient norm {norm} at "
                                     f"learning rate {rate:g}; the weights were left as they were. A lower learning_rate is the usual cure")
        for optimizer in optimizers.values():
            optimizer.step()
        ema.update(step + 1)
        yield TrainState(step + 1, sum(sums) / b, norm, rate, sums, [int(n) for n in counts], waited)


class _Parts(Dataset):
    """Asked for the numbers of some samples, gives these, their draft, and their captions as the text encoder takes them."""

    def __init__(self, data: Data, tokenize: Callable | None, stage: Stage, alternatives: bool):
        self.data, self.tokenize, self.alternatives = data, tokenize, alternatives
        self.size, self.low = stage.config.unet.image_size, stage.config.unet.low_res_size

    def __getitem__(self, numbers: range) -> tuple[range, Draft, tuple[Tensor, Tensor] | None]:
        draft = draft_of(self.data, numbers, self.size, self.low, self.alternatives)
        return numbers, draft, None if self.tokenize is None else self.tokenize(draft.captions)


def _inputs(data: Data, encoder: TextEncoder, stage: Stage, config: TrainConfig, parts: list[range], start: int, device: torch.device,
            fixed_length: bool) -> Iterator[dict[str, Tensor]]:
    """What `Stage.loss` is given for each of this rank's parts of every step, with text as `emb` and `mask`.

    What is in a batch is decided here, or ahead of time by `config.workers` processes. With `fixed_length` texts are padded, to nearly always the same length.
    """
    tokenize = encoder.tokenizing() if config.workers and isinstance(encoder, TextEncoder) else None
    dataset, b = _Parts(data, tokenize, stage, config.twins + config.mistakes > 0), config.batch_size
    asked = (range(step * b + part.start, step * b + part.stop) for step in range(start, config.steps) for part in parts)
    drafts = map(dataset.__getitem__, asked) if not config.workers else DataLoader(
        dataset, batch_size=None, sampler=asked, num_workers=config.workers, collate_fn=_as_it_is, worker_init_fn=_leave_signals_to_parent)
    for numbers, draft, tokens in drafts:
        batch, alternatives = draft.on(device)
        text = encoder(batch.captions) if tokens is None else encoder.encode(*tokens)
        step, first = divmod(numbers[0], b)
        random = {k: v[first:first + len(numbers)].to(device) for k, v in step_randomness(config, stage, step).items()}
        way = {name: random.pop(name) for name in ("towards_twin", "mistake") if name in random}
        text = text.drop(random.pop("drop")).to(torch.float32)
        text = text.pad(-len(text.mask[0]) % FIXED_LENGTH) if fixed_length else text
        inputs = {"x_0": batch.pictures, "emb": text.emb, "mask": text.mask} | random | sample_noise(config, stage, numbers, batch)
        if batch.low_res is not None:
            inputs["low_res"] = batch.low_res
        if alternatives is not None:
            inputs |= on_the_way(batch.pictures, alternatives, **way, log_snr=stage.log_snr_of(random["t"]))
        yield inputs


def _as_it_is(part):
    return part


def _leave_signals_to_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
