"""Guidance by attention maps: x_t is moved until words attend to where they should.

    A       the attention of every place to every word, averaged over heads and layers of one grid
    E(A)    an energy: low where the maps are as they should be
    x_t  <- x_t - rate dE / dx_t        through the network, before the sampler's next step

Two energies are here. Attend-and-Excite asks every chosen word for one place that attends to it
strongly, so that no object is forgotten. `attention_box_energy` asks for a word's attention to lie
in a box, which is a layout without training. `attention_refocusing` has two more for boxes.

The maps are read through an attention control, and x_t is moved between two steps of the sampler
(`after_step` of `diffusion.samplers.sample`), so it works with every sampler:

    record = attention_recorder(lambda control: stage.denoiser(
        text, guidance_scale=1.0, threshold="none", control_at=lambda t: control), size=16)
    energy = attend_and_excite_energy(positions, word_tokens)
    move = descend_attention(record, energy, times)
    x_T = move(x_T, -1, float(times[0]))
    *_, last = sample(denoise, x_T, times, stage.schedule, after_step=move)

`guide_by_attention` is the other door: a denoiser that wraps a denoiser, with the gradient added to
its estimate as in universal guidance.

References: Attend-and-Excite (Chefer et al., 2023), arXiv 2301.13826; Training-Free Layout Control
with Cross-Attention Guidance (Chen et al., 2023), arXiv 2304.03373.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from imagen_mini.diffusion.guidance import Denoiser, GuidanceScale, scale_at
from imagen_mini.diffusion.schedules import ScheduleFunction, alpha_sigma, in_float64
from imagen_mini.editing.image_losses import Box, box_mask
from imagen_mini.editing.windows import ROUNDING, share_done
from imagen_mini.models.control import AttentionControl, AttentionSite

# (x_t [b, 3, h, w], t scalar) -> maps [b, size, size, tokens], or what else the energy takes; with
# their graph if gradients are on
Recorder = Callable[[Tensor, Tensor], Any]
Energy = Callable[[Any], Tensor]  # maps [b, size, size, tokens] -> [b]


# ---------------------------------------------------------------- reading maps


@dataclass(frozen=True)
class DifferentiableMaps(AttentionControl):
    """A control that changes nothing and keeps the attention to words of one call, with its graph.

    Attributes:
        size: The grid whose layers are kept.
        maps: By the site's name, probabilities [b, heads, queries, words] of the latest call.
    """

    size: int
    maps: dict[str, Tensor] = field(default_factory=dict)

    def needs_probs(self, site: AttentionSite) -> bool:
        return site.kind != "self" and site.size == self.size

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        self.maps[site.name] = probs[..., :n_text]
        return probs

    def mean(self) -> Tensor:
        """The maps [b, size, size, words], averaged over layers and heads.

        Raises:
            ValueError: No layer on this grid attends to words.
        """
        if not self.maps:
            raise ValueError(
                f"no attention to words on a grid of {self.size} x {self.size}; choose a size that "
                "the network has: [site.size for site in stage.net.sites if site.kind != 'self']"
            )
        mean = torch.stack([probs.mean(1) for probs in self.maps.values()]).mean(0)
        return rearrange(mean, "b (h w) n -> b h w n", h=self.size)


def attention_recorder(
    denoiser: Callable[[AttentionControl], Denoiser], size: int = 16
) -> Recorder:
    """A function that reads the attention maps of a network at a noisy image.

    Args:
        denoiser: control -> the denoiser of the prompts, under that control in every step; without
            guidance, for only the conditional branch has maps.
        size: the grid that is read (default: 16, as in Attend-and-Excite).

    Returns:
        (x_t [b, 3, h, w], t scalar) -> maps [b, size, size, tokens].
    """

    def record(x_t: Tensor, t: Tensor) -> Tensor:
        control = DifferentiableMaps(size)
        denoiser(control)(x_t, t)
        return control.mean()

    return record


# ---------------------------------------------------------------- energies


def smooth_maps(maps: Tensor, deviation: float = 0.5) -> Tensor:
    """Maps after a Gaussian filter of 3 x 3, so that one place alone is no object.

    The rim is reflected.

    Args:
        maps: [b, h, w, n].
        deviation: of the filter, in places (default: 0.5, as in Attend-and-Excite).

    Returns:
        [b, h, w, n].
    """
    weight = math.exp(-1 / (2 * deviation**2))
    row = torch.tensor([weight, 1.0, weight], dtype=maps.dtype, device=maps.device)
    kernel = torch.outer(row, row) / row.sum() ** 2
    images = rearrange(maps, "b h w n -> (b n) 1 h w")
    smooth = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), kernel[None, None])
    return rearrange(smooth, "(b n) 1 h w -> b h w n", b=len(maps))


def share_among_words(maps: Tensor, word_tokens: Sequence[Sequence[int]]) -> Tensor:
    """The attention to words as shares of what all words get: without start or end token, and
    without padding.

    Special tokens get much attention that means nothing. Attend-and-Excite leaves out the start
    token, which CLIP has; T5 has an end token.

    Args:
        maps: [b, h, w, tokens].
        word_tokens: for each prompt, the positions of its tokens that belong to words.

    Returns:
        [b, h, w, tokens], 0 at the others; at every place the rest adds up to 1.
    """
    words = maps.new_zeros(len(maps), maps.shape[-1])
    for row, positions in zip(words, word_tokens, strict=True):
        row[list(positions)] = 1
    kept = maps * words[:, None, None]
    return kept / kept.sum(-1, keepdim=True).clamp(min=1e-12)


def attend_and_excite_energy(
    positions: Sequence[Sequence[Sequence[int]]], word_tokens: Sequence[Sequence[int]]
) -> Energy:
    """The energy of Attend-and-Excite: of the most neglected word, how far it is from attention.

        E = max over words of (1 - max over places of the smoothed map of the word)

    Args:
        positions: for each prompt, for each chosen word, the positions of its tokens, whose maps
            are averaged. A prompt without words has the energy 0.
        word_tokens: as in `share_among_words`.

    Returns:
        maps [b, size, size, tokens] -> [b] in [0, 1].

    Reference:
        Attend-and-Excite (Chefer et al., 2023), arXiv 2301.13826. Differs from the paper: its code
        sharpens the softmax over words, with a factor of 100.
    """

    def energy(maps: Tensor) -> Tensor:
        smooth = smooth_maps(share_among_words(maps, word_tokens))
        each = []
        for row, words in zip(smooth, positions, strict=True):
            strongest = [row[..., list(tokens)].mean(-1).amax() for tokens in words]
            each.append((1 - torch.stack(strongest)).amax() if words else 0 * row.sum())
        return torch.stack(each)

    return energy


def attention_box_energy(boxes: Sequence[Mapping[tuple[int, ...], Box]]) -> Energy:
    """The energy of a layout: the attention to words that lies outside of their boxes.

        E = sum over words of (1 - attention in the box / all attention to the word)^2

    Args:
        boxes: for each prompt, by the positions of a word's tokens, its box (left, top, right,
            bottom) in shares of the image.

    Returns:
        maps [b, size, size, tokens] -> [b], from 0 to the number of boxes.

    Raises:
        ValueError: a box has no area inside the image.

    Reference:
        Training-Free Layout Control with Cross-Attention Guidance (Chen et al., 2023), arXiv
        2304.03373: its backward guidance.
    """
    for of_prompt in boxes:
        for box in of_prompt.values():
            box_mask(box, 1)

    def energy(maps: Tensor) -> Tensor:
        each = []
        for row, of_prompt in zip(maps, boxes, strict=True):
            total = 0 * row.sum()
            for tokens, box in of_prompt.items():
                word = row[..., list(tokens)].mean(-1)
                inside = (word * box_mask(box, len(word), word.device).to(word)).sum()
                total = total + (1 - inside / word.sum().clamp(min=1e-12)).square()
            each.append(total)
        return torch.stack(each)

    return energy


# ---------------------------------------------------------------- following the gradient


def attention_gradient(
    record: Recorder, energy: Energy, x_t: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """How the energy of the maps changes with the noisy image.

    Args:
        record: reads the maps.
        energy: of the maps.
        x_t: [b, 3, h, w].
        t: a scalar.

    Returns:
        The energy of each image, [b], and its gradient [b, 3, h, w]. The weights of the network get
        none.
    """
    with torch.enable_grad():
        at = x_t.detach().requires_grad_()
        values = energy(record(at, t))
        (gradient,) = torch.autograd.grad(values.sum(), at)
    return values.detach(), gradient


def descend_attention(
    record: Recorder,
    energy: Energy,
    timesteps: Tensor,
    rate: float = 20.0,
    until: float = 0.5,
    targets: Mapping[float, float] | None = None,
    most: int = 20,
    repeat: int = 1,
) -> Callable[[Tensor, int, float], Tensor]:
    """Move x_t along the gradient of an energy, before each step of the sampler.

        x_t <- x_t - rate sqrt(1 - done / 2) dE / dx_t

    Before steps that `targets` names, this is repeated until the energy is as low as the target, at
    most `most` times: iterative refinement. An image that has reached it stays.

    Args:
        record: reads the maps, see `attention_recorder`.
        energy: of the maps.
        timesteps: those of the sampler, [steps + 1], falling.
        rate: the length of a step, in units of the gradient (default: 20, as in Attend-and-Excite,
            where it falls by the square root of a number from 1 to 0.5, too).
        until: the share of the steps in which x_t is moved, from the first on (default: 0.5).
        targets: by the share of the steps that are done, the energy to be reached then; it holds
            for the first step at or after it (default: none). Attend-and-Excite has {0: 0.95,
            0.2: 0.5, 0.4: 0.2}.
        most: repetitions at most for a target (default: 20).
        repeat: moves before each step (default: 1); layout control has 5.

    Returns:
        (x, step, s) -> x, an `after_step` for `sample`. It is for the step that follows, so before
        the first one call it with step -1 and s = timesteps[0].

    Raises:
        ValueError: a rate or a share that is out of range.

    Reference:
        Attend-and-Excite (Chefer et al., 2023), arXiv 2301.13826, Algorithm 1. Differs from it:
        before a step with a target, an image that has reached it does not move once more.
    """
    if rate <= 0 or not 0 <= until <= 1 or min(most, repeat) < 1:
        raise ValueError(
            f"rate {rate}, until {until}, most {most}, repeat {repeat}; expected a rate above 0, a "
            "share of the steps from 0 to 1, and at least one move"
        )
    steps, done = len(timesteps) - 1, share_done(timesteps)
    # the number of the step before which each target has to be reached
    target_of = {math.ceil(share * steps - ROUNDING): e for share, e in (targets or {}).items()}

    def move(x: Tensor, step: int, s: float) -> Tensor:
        coming = step + 1
        if coming >= steps or done(s) + ROUNDING >= until:
            return x
        length = rate * math.sqrt(1 - done(s) / 2)
        target = target_of.get(coming)
        t = timesteps[coming]
        for _ in range(repeat if target is None else most):
            values, gradient = attention_gradient(record, energy, x, t)
            if target is not None:
                gradient = gradient * (values > target)[:, None, None, None]
                if not (values > target).any():
                    break
            x = x - length * gradient.to(x)
        return x

    return move


def guide_by_attention(
    denoise: Denoiser,
    record: Recorder,
    energy: Energy,
    scale: GuidanceScale,
    schedule: ScheduleFunction,
) -> Denoiser:
    """A denoiser whose estimate is shifted towards a lower energy of the attention maps.

        eps     = eps(x_t) + scale sigma dE / dx_t
        x_0_hat = x_0_hat(x_t) - scale (sigma^2 / alpha) dE / dx_t

    As `guide_by_classifier` with log p = -E.

    Args:
        denoise: (x_t, t) -> x_0_hat; it needs no gradient.
        record: reads the maps, see `attention_recorder`.
        energy: of the maps.
        scale: the weight, or a function of t. Where it is 0, no maps are read.
        schedule: t -> log-SNR.

    Returns:
        A function (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w], without gradients.

    Reference:
        Diffusion Self-Guidance for Controllable Image Generation (Epstein et al., 2023), arXiv
        2306.00986, for energies of attention maps in the place of a classifier.
    """

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        x_0_hat, w = denoise(x_t, t).detach(), scale_at(scale, t)
        if w == 0:
            return x_0_hat
        _, gradient = attention_gradient(record, energy, x_t, t)
        alpha, sigma = alpha_sigma(schedule(in_float64(t)))
        return x_0_hat - (w * sigma.square() / alpha).to(x_t) * gradient.to(x_t)

    return guided
