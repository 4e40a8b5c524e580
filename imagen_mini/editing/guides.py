"""Guides: what the pipeline takes as `guide`, so that sampling follows more than the prompt.

    pipe("a star, a circle and a square", seed=0, guide=AttendAndExcite())
    pipe("a red circle", seed=0, guide=LossGuide(color_loss(COLORS["red"], mask), scale=5.0))

A guide reaches the network through a control of attention and features, and the sampler through the
denoiser, which it wraps, and through x_t between two steps. All three are optional. Several guides
are a `Guides((a, b))`, and an edit may be there as well. The mathematics is in the files that are
named here:

    LossGuide            universal_guidance.py, diffusion/guidance.py; losses: image_losses.py
    ClassifierGuide      diffusion/guidance_rules.py
    AttendAndExcite      attention_guidance.py
    AttentionLayout      attention_guidance.py
    AttentionRefocusing  attention_refocusing.py
    StructuredPrompt     structured_prompts.py
    ComposedPrompts      diffusion/guidance_rules.py
    DirectionGuide       h_space.py
    ContentInjection     content_injection.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imagen_mini.diffusion.guidance import Denoiser, GuidanceScale, guide_by_loss
from imagen_mini.diffusion.guidance_rules import compose, guide_by_classifier
from imagen_mini.diffusion.schedules import ScheduleFunction
from imagen_mini.editing.alignment import token_positions
from imagen_mini.editing.attention_guidance import (
    Energy,
    Recorder,
    attend_and_excite_energy,
    attention_box_energy,
    attention_recorder,
    descend_attention,
)
from imagen_mini.editing.attention_refocusing import refocus_energy, refocus_recorder
from imagen_mini.editing.content_injection import MixFeatures
from imagen_mini.editing.h_space import ShiftFeatures, asymmetric_denoiser, middle_site
from imagen_mini.editing.image_losses import Box, ImageLoss, check_box
from imagen_mini.editing.structured_prompts import (
    is_negated,
    noun_phrases,
    structured_values,
)
from imagen_mini.editing.universal_guidance import guide_backward
from imagen_mini.editing.windows import share_done, within
from imagen_mini.models.control import AttentionControl, AttentionSite, BlockSite, both_controls
from imagen_mini.text.encoder import TextEmbeddings, Tokens

ControlAt = Callable[[float], AttentionControl | None]  # t -> the control that is active then
AfterStep = Callable[[Tensor, int, float], Tensor]  # (x, step, s) -> x


@dataclass(frozen=True)
class GuidedCall:
    """What a guide is told of a call of the pipeline.

    Args:
        prompts: b captions.
        tokens: of each.
        text: the captions encoded, b rows.
        encode: prompts -> their encodings.
        tokenize: a prompt -> its tokens.
        denoiser: `DiffusionStage.denoiser`: (text, guidance_scale=, threshold=, control_at=) -> a
            denoiser of other texts.
        controlled: control_at -> the call's own denoiser, of its prompts and guidance and under the
            controls of edit and guides, with one more control.
        values_of: text -> by the site's name the values of its words, [b, n, channels].
        sites: the attention layers of the network.
        block_sites: its residual blocks.
        schedule: t -> log-SNR.
        timesteps: of the sampler, [steps + 1], falling.
        guidance_scale: w, or a function of t.
        threshold: "none", "static" or "dynamic".
    """

    prompts: Sequence[str]
    tokens: Sequence[Tokens]
    text: TextEmbeddings
    encode: Callable[[Sequence[str]], TextEmbeddings]
    tokenize: Callable[[str], Tokens]
    denoiser: Callable[..., Denoiser]
    controlled: Callable[[ControlAt], Denoiser]
    values_of: Callable[[TextEmbeddings], Mapping[str, Tensor]]
    sites: Sequence[AttentionSite]
    block_sites: Sequence[BlockSite]
    schedule: ScheduleFunction
    timesteps: Tensor
    guidance_scale: GuidanceScale
    threshold: str


class Guide:
    """What the pipeline takes as `guide`. The base class changes nothing, so a subclass overrides
    only what it needs.
    """

    #: Times that every step is taken, with noise back between them (see
    #: `universal_guidance.sample_with_recurrence`).
    rounds: int = 1
    #: Does what it does hold only for the sampler "ddim" without fresh noise?
    needs_ddim: bool = False
    #: Does it build a denoiser of its own from the call, so that it cannot wrap another guide?
    builds_denoiser: bool = False
    #: Does it take the prompts of the call apart? Then no edit and no negative prompt goes with it,
    #: and no guide that acts inside the network.
    composes_prompts: bool = False
    #: Does it treat each row by its own prompt? Then prompts cannot be shared by an edit.
    reads_prompts: bool = False

    def control(self, call: GuidedCall) -> AttentionControl | None:
        """The control of attention and features of the conditional branch, in every step."""
        return None

    def wrap(self, call: GuidedCall, denoise: Denoiser) -> Denoiser:
        """A denoiser that is guided; `denoise` is that of the prompts, with guidance and under all
        controls. What an edit does to x_0_hat comes after it.
        """
        return denoise

    def after_step(self, call: GuidedCall) -> AfterStep | None:
        """What moves x between two steps. It is called before the first step as well, with step
        -1.
        """
        return None


@dataclass(frozen=True)
class Guides(Guide):
    """Several guides: each wraps the denoiser of the one before it.

    Args:
        each: the guides, in order.

    Raises:
        ValueError: two of them take steps several times, or they do not go together in this order.
    """

    each: tuple[Guide, ...]

    def __post_init__(self):
        # what one of them needs, all of them do
        for name in ("needs_ddim", "builds_denoiser", "composes_prompts", "reads_prompts"):
            object.__setattr__(self, name, any(getattr(guide, name) for guide in self.each))
        most = max((guide.rounds for guide in self.each), default=1)
        object.__setattr__(self, "rounds", most)
        if sum(guide.rounds > 1 for guide in self.each) > 1:
            raise ValueError("two guides with rounds > 1; expected one at most")
        for guide in self.each[1:]:
            if guide.builds_denoiser:
                raise ValueError(
                    f"guide {type(guide).__name__} after {type(self.each[0]).__name__}: it builds "
                    "its denoiser from the prompts, and would undo the guides before it; put it "
                    "first, and take one of its kind at most"
                )

    def control(self, call: GuidedCall) -> AttentionControl | None:
        found: AttentionControl | None = None
        for guide in self.each:
            found = both_controls(found, guide.control(call))
        return found

    def wrap(self, call: GuidedCall, denoise: Denoiser) -> Denoiser:
        for guide in self.each:
            denoise = guide.wrap(call, denoise)
        return denoise

    def after_step(self, call: GuidedCall) -> AfterStep | None:
        moves = [move for guide in self.each if (move := guide.after_step(call)) is not None]
        if not moves:
            return None

        def all_moves(x: Tensor, step: int, s: float) -> Tensor:
            for move in moves:
                x = move(x, step, s)
            return x

        return all_moves


def as_guide(guide: Guide | Sequence[Guide] | None) -> Guide | None:
    """A guide as it is, several as one.

    Raises:
        TypeError: what is given is no guide.
    """
    if guide is None or isinstance(guide, Guide):
        return guide
    if isinstance(guide, (list, tuple)) and all(isinstance(g, Guide) for g in guide):
        return Guides(tuple(guide))
    raise TypeError(
        f"guide {guide!r}; expected a guide of imagen_mini.editing.guides, such as "
        "AttendAndExcite(), or a list of them"
    )


# ---------------------------------------------------------------- losses and classifiers


@dataclass(frozen=True)
class LossGuide(Guide):
    """Universal guidance by a loss of the estimated image.

    Args:
        loss: images [b, 3, h, w] -> [b], see `image_losses`.
        scale: of forward guidance, or a function of t; 0 is off (default: 1).
        backward_steps: of backward guidance (default: 0, which is off).
        backward_rate: of these (default: 0.1).
        rounds: times that every step is taken (default: 1). More need the sampler "ddim" or
            "ddpm".

    Reference:
        Universal Guidance for Diffusion Models (Bansal et al., 2023), arXiv 2302.07121.
    """

    loss: ImageLoss
    scale: GuidanceScale = 1.0
    backward_steps: int = 0
    backward_rate: float = 0.1
    rounds: int = 1

    def wrap(self, call: GuidedCall, denoise: Denoiser) -> Denoiser:
        forward = guide_by_loss(denoise, self.loss, self.scale, call.schedule)
        return guide_backward(forward, self.loss, self.backward_steps, self.backward_rate)


@dataclass(frozen=True)
class ClassifierGuide(Guide):
    """Classifier guidance by a classifier of noisy images.

    Args:
        log_probability: captions -> ((x_t, log_snr [b]) -> log p(caption | x_t), [b]), for example
            `NoisyClassifier.log_probability`.
        scale: s, or a function of t (default: 1).

    Reference:
        Dhariwal and Nichol (2021), arXiv 2105.05233, Section 4.
    """

    log_probability: Callable[[Sequence[str]], Callable[[Tensor, Tensor], Tensor]]
    scale: GuidanceScale = 1.0
    reads_prompts = True

    def wrap(self, call: GuidedCall, denoise: Denoiser) -> Denoiser:
        log_p = self.log_probability(call.prompts)
        return guide_by_classifier(denoise, log_p, self.scale, call.schedule)


# ---------------------------------------------------------------- attention


def attention_grid(sites: Sequence[AttentionSite], to: str = "words", most: int = 16) -> int:
    """The finest grid of at most this size whose layers attend to words or to pixels.

    Args:
        sites: The attention layers of a network.
        to: "words" (the default) or "pixels".
        most: The largest grid that is taken (default: 16).

    Raises:
        ValueError: there is none.
    """
    other = {"words": "self", "pixels": "cross"}[to]
    sizes = {site.size for site in sites if site.kind != other}
    fit = [size for size in sizes if size <= most]
    if not sizes and to == "pixels":
        raise ValueError("no layer of this network attends to pixels; pass self_weight=0")
    if not fit:
        raise ValueError(
            f"this network attends to {to} on grids of {', '.join(map(str, sorted(sizes)))}; "
            f"expected one of at most {most}"
        )
    return max(fit)


def _reading(call: GuidedCall) -> Callable[[AttentionControl], Denoiser]:
    """Control -> the denoiser of the call's own prompts whose maps are read."""
    return lambda control: call.denoiser(
        call.text, guidance_scale=1.0, threshold="none", control_at=lambda t: control
    )


def _recorder(call: GuidedCall, size: int | None) -> Recorder:
    """Reads the maps of the call's own prompts."""
    return attention_recorder(_reading(call), attention_grid(call.sites) if size is None else size)


def _word_tokens(call: GuidedCall) -> list[list[int]]:
    """For each prompt, the positions of its tokens that belong to words."""
    return [
        [i for i, word in enumerate(tokens.word_ids) if word is not None] for tokens in call.tokens
    ]


def wanted_nouns(tokens: Tokens) -> list[str | int]:
    """The numbers of the words that name what is to be there: the last one of each noun phrase.

    Args:
        tokens: the prompt. After "no" and "without" it names what is not.
    """
    return [p[1] - 1 for p in noun_phrases(tokens) if not is_negated(tokens, p)]


@dataclass(frozen=True)
class AttendAndExcite(Guide):
    """Attend-and-Excite: every object of the prompt gets a place that attends to it.

    Args:
        words: the words that may not be neglected, the same for each prompt (default: the last word
            of each noun phrase of the prompt, but for "no" and "without").
        rate: of the moves (default: 20, as in the paper).
        until: share of the steps in which x_t is moved (default: 0.5).
        targets: energies to be reached, by the share of the steps that are done (default: those of
            the paper, at 0, a fifth and two fifths).
        most: moves at most for a target (default: 20).
        size: the grid of the maps (default: the finest one up to 16).

    Reference:
        Attend-and-Excite (Chefer et al., 2023), arXiv 2301.13826.
    """

    words: Sequence[str | int] | None = None
    rate: float = 20.0
    until: float = 0.5
    targets: Mapping[float, float] | None = None
    most: int = 20
    size: int | None = None
    reads_prompts = True

    def energy(self, call: GuidedCall) -> Energy:
        """The energy of the call's prompts.

        Raises:
            ValueError: a prompt does not have one of the words.
        """
        positions = []
        for tokens in call.tokens:
            words = self.words
            if words is None:
                words = wanted_nouns(tokens)
            positions.append([token_positions(tokens, word) for word in words])
        return attend_and_excite_energy(positions, _word_tokens(call))

    def after_step(self, call: GuidedCall) -> AfterStep:
        targets = {0.0: 0.95, 0.2: 0.5, 0.4: 0.2} if self.targets is None else self.targets
        return descend_attention(
            _recorder(call, self.size),
            self.energy(call),
            call.timesteps,
            self.rate,
            self.until,
            targets,
            self.most,
        )


BoxesOfWords = Mapping[str | int, Box]  # a word or its number -> its box


def _check_boxes(boxes: BoxesOfWords | Sequence[BoxesOfWords]) -> None:
    """ValueError for a box without an area inside the image."""
    for of_prompt in [boxes] if isinstance(boxes, Mapping) else boxes:
        for box in of_prompt.values():
            check_box(box)


def boxes_of_tokens(
    boxes: BoxesOfWords | Sequence[BoxesOfWords], tokens: Sequence[Tokens]
) -> list[dict[tuple[int, ...], Box]]:
    """Boxes by the positions of their words' tokens, for each prompt.

    Args:
        boxes: by a word or its number; one mapping for all prompts, or one for each.
        tokens: of each prompt.

    Raises:
        ValueError: there are boxes for another number of prompts, or a word is not in its prompt.
    """
    each = [boxes] * len(tokens) if isinstance(boxes, Mapping) else list(boxes)
    if len(each) != len(tokens):
        raise ValueError(
            f"boxes for {len(each)} prompts, and there are {len(tokens)}; give one "
            "mapping for all, or one for each"
        )
    return [
        {tuple(token_positions(found, word)): box for word, box in of_prompt.items()}
        for found, of_prompt in zip(tokens, each)
    ]


@dataclass(frozen=True)
class AttentionLayout(Guide):
    """A layout by attention: words attend to where their boxes are.

    Args:
        boxes: by a word or its number its box (left, top, right, bottom), in shares of the image;
            one mapping for all prompts, or one for each.
        rate: of the moves (default: 30, as in the paper).
        until: share of the steps in which x_t is moved (default: 0.2: 10 of 50 in the paper).
        repeat: moves before each of these (default: 5, as in the paper).
        size: the grid of the maps (default: the finest one up to 16).

    Raises:
        ValueError: a box has no area inside the image.

    Reference:
        Training-Free Layout Control with Cross-Attention Guidance (Chen et al., 2023), arXiv
        2304.03373. Differs from the paper: x_t moves by the same rate at all times, where the paper
        multiplies it by sigma_t^2; the energy is a sum over words of one mean map, where the
        authors' code takes means over words, layers and heads; and no move is left out because the
        energy is low already.
    """

    boxes: BoxesOfWords | Sequence[BoxesOfWords]
    rate: float = 30.0
    until: float = 0.2
    repeat: int = 5
    size: int | None = None
    reads_prompts = True

    def __post_init__(self):
        _check_boxes(self.boxes)

    def after_step(self, call: GuidedCall) -> AfterStep:
        return descend_attention(
            _recorder(call, self.size),
            attention_box_energy(boxes_of_tokens(self.boxes, call.tokens)),
            call.timesteps,
            self.rate,
            self.until,
            repeat=self.repeat,
        )


@dataclass(frozen=True)
class AttentionRefocusing(Guide):
    """Attention refocusing: words attend to their boxes, and pixels of a box to no pixel outside.

    Args:
        boxes: as of `AttentionLayout`.
        rate: of the moves (default: 30).
        until: share of the steps in which x_t is moved (default: 0.2).
        repeat: moves before each of these (default: 5).
        self_weight: of the loss of attention to pixels (default: 1). 0: it is not read.
        size: the grid of the attention to words (default: the finest one up to 16).
        self_size: the grid of the attention to pixels (default: the finest one up to 16).

    Raises:
        ValueError: a box has no area inside the image, or `self_weight` is below 0.

    Reference:
        Grounded Text-to-Image Synthesis with Attention Refocusing (Phung et al., 2023), arXiv
        2306.05427. Differs from the paper: its code makes 2 to 6 moves of falling length before
        each of the first 10 of 50 steps, and some later ones; here they are as of a layout.
    """

    boxes: BoxesOfWords | Sequence[BoxesOfWords]
    rate: float = 30.0
    until: float = 0.2
    repeat: int = 5
    self_weight: float = 1.0
    size: int | None = None
    self_size: int | None = None
    reads_prompts = True

    def __post_init__(self):
        _check_boxes(self.boxes)
        if self.self_weight < 0:
            raise ValueError(f"self_weight {self.self_weight}; expected 0 or more")

    def after_step(self, call: GuidedCall) -> AfterStep:
        # 1. the grids that are read
        size = attention_grid(call.sites) if self.size is None else self.size
        self_size = self.self_size
        if self.self_weight == 0:
            self_size = None
        elif self_size is None:
            self_size = attention_grid(call.sites, "pixels")
        # 2. the energy of what is read there
        boxes = boxes_of_tokens(self.boxes, call.tokens)
        return descend_attention(
            refocus_recorder(_reading(call), size, self_size),
            refocus_energy(boxes, _word_tokens(call), self.self_weight),
            call.timesteps,
            self.rate,
            self.until,
            repeat=self.repeat,
        )


# ---------------------------------------------------------------- directions


@dataclass(frozen=True)
class DirectionGuide(Guide):
    """A direction of h-space, by the asymmetric step. It needs the sampler "ddim" with eta 0.

    Args:
        direction: what is added to the features of the last block of the middle, [1 or b, c, g, g];
            or a function of t that returns it.
        until: share of the steps in which it acts, from the first on (default: 0.5).

    Reference:
        Diffusion Models Already Have a Semantic Latent Space (Kwon et al., 2023), arXiv 2210.10960.
    """

    direction: Tensor | Callable[[float], Tensor]
    until: float = 0.5
    needs_ddim = True
    builds_denoiser = True

    def __post_init__(self):
        if not 0 <= self.until <= 1:
            raise ValueError(f"until {self.until}; expected a share of the steps from 0 to 1")

    def wrap(self, call: GuidedCall, denoise: Denoiser) -> Denoiser:
        site = middle_site(call.block_sites)

        def control_at(t: float) -> AttentionControl:
            found = self.direction(t) if callable(self.direction) else self.direction
            return ShiftFeatures(site, found)

        return _asymmetric(call, denoise, control_at, self.until)


def _asymmetric(
    call: GuidedCall, denoise: Denoiser, control_at: ControlAt, until: float
) -> Denoiser:
    """Asymmetric steps up to a share of the steps: x_0_hat is that under a control, the noise is
    not.
    """
    done = share_done(call.timesteps)
    shifted = call.controlled(control_at)
    asymmetric = asymmetric_denoiser(shifted, denoise, call.timesteps, call.schedule)
    return lambda x_t, t: (asymmetric if within((0.0, until), done(float(t))) else denoise)(x_t, t)


@dataclass(frozen=True)
class ContentInjection(Guide):
    """Content of one image in the style of another one. It needs the sampler "ddim" with eta 0.

    The first half of the prompts are content prompts, whose images stay as they are. The second
    half are style prompts, each beside its partner.

        pipe(["a red star", "a circle on a black background"], seed=[0, 1], sampler="ddim", eta=0.0,
             guide=ContentInjection(0.5))

    Args:
        share: of the content's features in the middle of the network, from 0 to 1 (default: 0.5).
        until: share of the steps in which they are mixed, from the first on (default: 0.5).

    Raises:
        ValueError: a share that is out of range.

    Reference:
        Training-free Content Injection using h-space in Diffusion Models (Jeong et al., 2024),
        arXiv 2303.15403.
    """

    share: float = 0.5
    until: float = 0.5
    needs_ddim = True
    builds_denoiser = True

    def __post_init__(self):
        for name, value in (("share", self.share), ("until", self.until)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value}; expected a share from 0 to 1")

    def wrap(self, call: GuidedCall, denoise: Denoiser) -> Denoiser:
        if len(call.prompts) % 2:
            raise ValueError(
                f"{len(call.prompts)} prompts; expected content prompts and as many style prompts "
                "after them"
            )
        control = MixFeatures(middle_site(call.block_sites), self.share)
        return _asymmetric(call, denoise, lambda t: control, self.until)


# ---------------------------------------------------------------- prompts


@dataclass(frozen=True)
class StructuredPrompt(Guide):
    """StructureDiffusion: the noun phrases of a prompt are also read alone.

    Args:
        phrases: (first word, last word + 1) of each phrase, for each prompt (default: found by
            `noun_phrases`).

    Reference:
        Training-Free Structured Diffusion Guidance (Feng et al., 2022), arXiv 2212.05032.
    """

    phrases: Sequence[Sequence[tuple[int, int]]] | None = None
    reads_prompts = True

    def control(self, call: GuidedCall) -> AttentionControl:
        return structured_values(
            call.values_of,
            call.text,
            call.tokens,
            lambda phrase: (call.tokenize(phrase), call.encode([phrase])),
            self.phrases,
        )


Parts = Sequence[tuple[str, float]]  # (prompt, weight): above 0 is AND, below 0 is NOT


def and_not_parts(tokens: Tokens, no: float = -0.5) -> list[tuple[str, float]]:
    """The noun phrases of a prompt as parts: AND, and NOT after "no" and "without".

    Args:
        tokens: the prompt.
        no: the weight of what is not to be there (default: -0.5).

    Returns:
        (phrase, weight) of each; the whole prompt if it has no noun phrase.
    """
    parts = []
    for start, end in noun_phrases(tokens):
        negative = is_negated(tokens, (start, end))
        phrase = [w for w in tokens.words[start:end] if w[-1].isalnum()]
        if phrase[0].lower() == "no":
            phrase[0] = "an" if phrase[1][0].lower() in "aeiou" else "a"
        parts.append((" ".join(phrase), no if negative else 1.0))
    return parts or [(" ".join(tokens.words), 1.0)]


@dataclass(frozen=True)
class ComposedPrompts(Guide):
    """Composable diffusion: several prompts at once, with AND and NOT.

        x_0_hat = D(x_t) + sum_i w(t) weight_i (D(x_t, c_i) - D(x_t))

    The prompt of the call itself is used only where it is one of the parts.

    Args:
        parts: (prompt, weight) of each part: one list for all prompts of the call, or one for each
            (default: the noun phrases of each prompt, see `and_not_parts`). Prompts with fewer
            parts than others get parts of weight 0.
        no: where the parts are found, the weight of what a prompt negates, from 0 (it is not read
            at all) down (default: -0.5).

    Raises:
        ValueError: there are no parts, or `no` is above 0.

    Reference:
        Compositional Visual Generation with Composable Diffusion Models (Liu et al., 2022), arXiv
        2206.01714.
    """

    parts: Parts | Sequence[Parts] | None = None
    no: float = -0.5
    builds_denoiser = composes_prompts = True

    def __post_init__(self):
        if self.no > 0:
            raise ValueError(f"no {self.no}; expected a weight of 0 or below")
        if self.parts is not None and not self.parts:
            raise ValueError("no prompts to compose; give at least one (prompt, weight)")

    def parts_of(self, tokens: Sequence[Tokens]) -> list[list[tuple[str, float]]]:
        """The parts of every prompt.

        Raises:
            ValueError: there are lists of parts for another number of prompts.
        """
        if self.parts is None:
            return [and_not_parts(t, self.no) for t in tokens]
        parts: Sequence[Any] = self.parts
        if isinstance(parts[0][0], str):
            parts = [parts] * len(tokens)
        if len(parts) != len(tokens):
            raise ValueError(
                f"parts for {len(parts)} prompts, and there are {len(tokens)}; give one list "
                "for all, or one for each"
            )
        return [[(prompt, float(weight)) for prompt, weight in row] for row in parts]

    def wrap(self, call: GuidedCall, denoise: Denoiser) -> Denoiser:
        each = self.parts_of(call.tokens)
        raw = {"guidance_scale": 1.0, "threshold": "none"}
        parts = []
        for number in range(max(map(len, each))):
            row = [p[number] if number < len(p) else (p[0][0], 0.0) for p in each]
            text = call.encode([prompt for prompt, _ in row])
            weights = [weight for _, weight in row]
            parts.append((call.denoiser(text, **raw), _times_weights(weights, call.guidance_scale)))
        return compose(call.denoiser(call.text.null(), **raw), parts, call.threshold)


def _times_weights(
    weights: Sequence[float], scale: GuidanceScale
) -> Callable[[float], float | Tensor]:
    """t -> w(t) times the weight of each row, [b]."""
    each = torch.tensor(weights)
    return lambda t: (scale(t) if callable(scale) else scale) * each
