"""Methods that edit a given image, each a few lines around a sampler: what `pipe.edit` runs.

A method takes a `GivenImage`: the image, the prompts, and how the stage is sampled. It yields the
states of a sampling loop whose row 0 is the source and whose row i is target number i.

    DDIMInversion             the noise that leads to the image, found without guidance
    NegativePromptInversion   the same, and guidance leads away from the source's prompt
    NullTextInversion         the same, and guidance leads away from an optimised null text
    DirectInversion           the same, and the source's row is put back on its trajectory
    EdictInversion            two coupled images, inverted exactly, under guidance
    SDEdit                    noise is added to the image, and removed with the target's prompt
    BlendedDiffusion          as SDEdit; outside of a mask the image is put back after each step
    RePaint                   as that from pure noise, and each step is taken several times
    DiffEdit                  from inverted noise; outside of a mask its trajectory is put back
    Inpainting                as RePaint, by a network that was fine-tuned to see the known part
    Imagic                    a text and a copy of the network are fitted to the image

The first five also take an edit, such as `Replace()`: what happens in attention is its business.
`DirectInversion` with `PlugAndPlay()` is Plug-and-Play, and with `MasaCtrl()` it is MasaCtrl.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from imagen_mini.diffusion.edict import MIXING, check_mixing, edict_invert, edict_sample
from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.guidance import Denoiser, GuidanceScale, guide_denoisers
from imagen_mini.diffusion.samplers import SamplingState, ddim_invert, sample
from imagen_mini.diffusion.schedules import ScheduleFunction
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.base import BoundEdit, Edit
from imagen_mini.editing.blending import DiffEditBlender, DiffEditMask, LocalBlend
from imagen_mini.editing.guided_sampling import known_part, repaint, repaint_callback, sdedit
from imagen_mini.editing.imagic import (
    TrainableCopy,
    fine_tune,
    interpolate,
    optimize_text,
    spread_times,
)
from imagen_mini.editing.inversion import by_step, null_text_optimization
from imagen_mini.editing.masactrl import MasaCtrl
from imagen_mini.editing.plug_and_play import PlugAndPlay
from imagen_mini.editing.windows import share_done
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import TextEmbeddings, Tokens, concatenate
from imagen_mini.utils.checks import as_integer, as_number

T = TypeVar("T")
EVERYWHERE = BoundEdit()  # no edit
WORD_MAP_TIMES = (0.3, 0.4, 0.5, 0.6)  # at which attention to words is read from a given image


class MakeDenoiser(Protocol):
    """`DiffusionStage.denoiser`, of one stage and one threshold."""

    def __call__(
        self,
        text: TextEmbeddings,
        guidance_scale: GuidanceScale = 1.0,
        control_at: Callable[[float], AttentionControl | None] | None = None,
        known: Tensor | None = None,
    ) -> Denoiser: ...


def _untracked(states: Iterable[T], what: str, steps: int) -> Iterable[T]:
    return states


@dataclass(frozen=True)
class GivenImage:
    """An image to be edited, the prompts, and how the stage is sampled.

    Args:
        image: [1, 3, h, w] in [-1, 1].
        tokens: The prompts: the source's, then the targets'.
        text: The same encoded, 1 + targets rows.
        sites: The attention layers of the network.
        denoiser: From a text to a denoiser.
        timesteps: Falling times from 1 to 0, [steps + 1].
        schedule: t -> log-SNR.
        guidance_scale: w, or a function of t that returns it.
        noise: (purpose, number) -> standard normal noise [1, 3, h, w].
        sampler: One of SAMPLERS (default "ddim"; those that invert take no other).
        eta: Its share of fresh noise (default 0).
        strength: The time up to which noise is added, for methods that take one (default 1). The
            timesteps of an inversion end there already.
        mask: Where the image may change, [1 or targets, 1, h, w] of 0 and 1, for methods that take
            one (default None: everywhere).
        edit: What happens in attention (default: nothing).
        copy: Makes a copy of the stage that may be trained (default None: there is none).
        track: (states, what, steps) -> states: shows their progress (default: does not).
    """

    image: Tensor
    tokens: list[Tokens]
    text: TextEmbeddings
    sites: list[AttentionSite]
    denoiser: MakeDenoiser
    timesteps: Tensor
    schedule: ScheduleFunction
    guidance_scale: GuidanceScale
    noise: Callable[[str, int], Tensor]
    sampler: str = "ddim"
    eta: float = 0.0
    strength: float = 1.0
    mask: Tensor | None = None
    edit: Edit | None = None
    copy: Callable[[], TrainableCopy] | None = None
    track: Callable[[Iterable[Any], str, int], Iterable[Any]] = _untracked

    @property
    def source(self) -> TextEmbeddings:
        """The source's prompt, one row."""
        return self.text[:1]

    @property
    def targets(self) -> TextEmbeddings:
        """The targets' prompts."""
        return self.text[1:]

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.timesteps) - 1

    def for_all(self, x: Tensor) -> Tensor:
        """One row as that of the source and of every target."""
        return x.expand(len(self.text), *x.shape[1:])

    def noised(self, t: float, purpose: str, number: int = 0) -> Tensor:
        """The image after the forward process up to time t."""
        log_snr = self.schedule(torch.tensor(t, dtype=torch.float64)).to(self.image)
        return q_sample(self.image, self.noise(purpose, number), log_snr)

    def bound_edit(self) -> BoundEdit:
        """The edit, once it knows the prompts."""
        if self.edit is None:
            return EVERYWHERE
        bound = self.edit.bind(self.tokens, self.sites, self.text.mask.shape[1])
        if bound.needs_source:
            bound.set_source(self.image, self.renoise_and_denoise)
        return bound

    def renoise_and_denoise(self, t: float, number: int) -> Tensor:
        """What each prompt makes of the image noised to time t, [1 + targets, 3, h, w]."""
        x_t = self.for_all(self.noised(t, "reread", number))
        return self.denoiser(self.text)(x_t, self.timesteps.new_tensor(t))

    def invert(self, text: TextEmbeddings | None = None) -> list[Tensor]:
        """DDIM inversion without guidance.

        Args:
            text: The prompt, one row. None: the source's.

        Returns:
            The image at each of the timesteps, from x_T to the image itself, [1, 3, h, w] each.
        """
        denoise = self.denoiser(self.source if text is None else text)
        states = ddim_invert(denoise, self.image, self.timesteps, self.schedule)
        back = [state.x for state in self.track(states, "inversion", self.steps)]
        return [*reversed(back), self.image]

    def sample(
        self,
        denoise: Denoiser,
        x_T: Tensor,
        after_step: Callable[[Tensor, int, float], Tensor] | None = None,
    ) -> Iterator[SamplingState]:
        """The sampling loop, from x_T with these options."""
        return sample(
            denoise,
            x_T,
            self.timesteps,
            self.schedule,
            self.sampler,
            partial(self.noise, "step"),
            after_step,
            eta=self.eta,
        )


def edited_denoiser(
    given: GivenImage,
    bound: BoundEdit,
    uncond: TextEmbeddings | list[TextEmbeddings] | None = None,
) -> Denoiser:
    """The guided denoiser of source and targets, with what an edit does in attention and after.

    Args:
        given: The image and the prompts.
        bound: The edit.
        uncond: What guidance leads away from: a text of as many rows, one such text for each step,
            or None for the null text.
    """
    done = share_done(given.timesteps)

    def control_at(t: float) -> AttentionControl | None:
        return bound.control_at(done(t))

    # 1. with the prompts, and without them
    cond = given.denoiser(given.text, 1.0, control_at)
    of_uncond = control_at if bound.controls_both_branches else None
    if isinstance(uncond, list):
        each = [given.denoiser(text, 1.0, of_uncond) for text in uncond]
        without = by_step(each, given.timesteps)
    else:
        text = given.text.null() if uncond is None else uncond
        without = given.denoiser(text, 1.0, of_uncond)
    # 2. guided; then the edit has its say
    guided = guide_denoisers(cond, without, given.guidance_scale)
    return lambda x_t, t: bound.after_denoising(guided(x_t, t), done(float(t)))


class ImageEditMethod(ABC):
    """A method that edits a given image."""

    #: Does it invert, so that only the deterministic sampler and no threshold go with it?
    inverts: ClassVar[bool] = False
    #: Does it read the source's prompt, so that there has to be one?
    reads_source: ClassVar[bool] = False
    #: Does it optimise something for each image, with gradients?
    optimizes: ClassVar[bool] = False
    #: Does it take a network that was trained for it?
    needs_trained: ClassVar[bool] = False
    takes_edit: ClassVar[bool] = False
    takes_strength: ClassVar[bool] = False
    takes_mask: ClassVar[bool] = False
    needs_mask: ClassVar[bool] = False
    #: The samplers that it goes with; none: all
    samplers: ClassVar[tuple[str, ...]] = ()
    #: The strength, if none is given
    strength: ClassVar[float] = 1.0

    @abstractmethod
    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        """Edit the image.

        Yields:
            A state after every step, of 1 + targets rows. The last one's `x_0_hat` is the result:
            row 0 is the source as the method has it, the others are the edits.
        """


# ---------------------------------------------------------------- inversion


class Inversion(ImageEditMethod):
    """What the methods share that invert: a deterministic sampler, and an edit on top.

    With a `strength` below 1 they invert up to that time alone, and sample from there. What is
    decided in more noise stays: of this world, the background.
    """

    inverts = takes_edit = takes_strength = True
    samplers = ("ddim",)


@dataclass(frozen=True)
class DDIMInversion(Inversion):
    """DDIM inversion with the source's prompt and without guidance, then guided sampling.

    Inversion drifts by an error that falls with the number of steps. Guidance leads away from the
    inverted trajectory, the source as well: at w = 1 the image is reconstructed, above it is not.

    Reference: DDIM (Song et al., 2020), arXiv 2010.02502, Section 4.3.
    """

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        x_T = given.invert()[0]
        denoise = edited_denoiser(given, given.bound_edit())
        yield from given.sample(denoise, given.for_all(x_T))


@dataclass(frozen=True)
class NegativePromptInversion(Inversion):
    """DDIM inversion, and guidance that leads away from the source's prompt instead of from the
    null text. For the source w cond + (1 - w) cond = cond, at any w: it is reconstructed as at
    w = 1, and nothing is optimised.

    Reference: Negative-prompt Inversion (Miyake et al., 2023), arXiv 2305.16807.
    """

    reads_source = True

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        x_T = given.invert()[0]
        away_from = concatenate([given.source] * len(given.text))
        denoise = edited_denoiser(given, given.bound_edit(), away_from)
        yield from given.sample(denoise, given.for_all(x_T))


@dataclass(frozen=True)
class NullTextInversion(Inversion):
    """DDIM inversion, and guidance that leads away from a null text optimised for every step, so
    that the guided source stays on the inverted trajectory.

    Args:
        inner_steps: Steps of optimisation for each step of the sampler, at least 1 (default 10).
        learning_rate: Of the first step, above 0 (default 3e-3).

    Raises:
        ValueError: A value is out of range.

    Reference: Null-text Inversion (Mokady et al., 2022), arXiv 2211.09794, Algorithm 1.
    """

    reads_source = optimizes = True

    inner_steps: int = 10
    learning_rate: float = 3e-3

    def __post_init__(self):
        as_integer("inner_steps", self.inner_steps, low=1)
        if not as_number("learning_rate", self.learning_rate) > 0:
            raise ValueError(f"learning_rate {self.learning_rate}; expected a number above 0")

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        # 1. the trajectory to keep to
        pivots = given.invert()
        # 2. a null text for every step
        null_texts = null_text_optimization(
            given.denoiser(given.source),
            given.denoiser,
            given.source.null(),
            pivots,
            given.timesteps,
            given.schedule,
            given.guidance_scale,
            self.inner_steps,
            self.learning_rate,
        )
        away_from = [
            concatenate([null] * len(given.text))
            for null in given.track(null_texts, "null texts", given.steps)
        ]
        # 3. guided sampling that leads away from them
        denoise = edited_denoiser(given, given.bound_edit(), away_from)
        yield from given.sample(denoise, given.for_all(pivots[0]))


@dataclass(frozen=True)
class DirectInversion(Inversion):
    """DDIM inversion; the source's row is put back on its inverted trajectory after every step, so
    that what an edit takes from it is what the given image has. The targets are free.

    With `PlugAndPlay()` as the edit this is Plug-and-Play, with `MasaCtrl()` it is MasaCtrl. It
    needs no prompt of the source: "" inverts with the null text.

    Reference: Direct Inversion (Ju et al., 2023), arXiv 2310.01506; so does the code of
        Plug-and-Play (Tumanyan et al., 2022), arXiv 2211.12572.
    """

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        # 1. the trajectory of the source
        pivots = given.invert()

        def put_back(x: Tensor, step: int, s: float) -> Tensor:
            return torch.cat([pivots[step + 1], x[1:]])

        # 2. in the source's row both branches of guidance have its prompt
        away_from = concatenate([given.source, given.targets.null()])
        denoise = edited_denoiser(given, given.bound_edit(), away_from)
        for state in given.sample(denoise, given.for_all(pivots[0]), put_back):
            if state.step == given.steps - 1:
                state = replace(state, x_0_hat=torch.cat([given.image, state.x_0_hat[1:]]))
            yield state


@dataclass(frozen=True)
class EdictInversion(Inversion):
    """Two coupled images, inverted exactly and under guidance: the yardstick of reconstruction. It
    takes twice the network calls of the others.

    Args:
        p: How much of itself each image keeps in a step, in (0, 1] (default 0.93).

    Raises:
        ValueError: p is out of range.

    Reference: EDICT (Wallace et al., 2022), arXiv 2211.12446, Section 4.
    """

    p: float = MIXING

    def __post_init__(self):
        check_mixing(as_number("p", self.p))

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        timesteps, schedule = given.timesteps, given.schedule
        # 1. the source alone; float64, as every rounding error grows by 1 / p in a step
        denoise = guide_denoisers(
            given.denoiser(given.source), given.denoiser(given.source.null()), given.guidance_scale
        )
        pairs = edict_invert(denoise, given.image.double(), timesteps, schedule, self.p)
        *_, (x_T, y_T) = given.track(pairs, "inversion", given.steps)
        # 2. source and targets
        denoise = edited_denoiser(given, given.bound_edit())
        start = given.for_all(x_T), given.for_all(y_T)
        for state in edict_sample(denoise, *start, timesteps, schedule, self.p):
            yield replace(state, x=state.x.to(given.image), x_0_hat=state.x_0_hat.to(given.image))


# ---------------------------------------------------------------- noise and masks


@dataclass(frozen=True)
class SDEdit(ImageEditMethod):
    """Noise is added to the image up to the time `strength`, and removed with the target's prompt.
    At 0 the image stays; at 1 next to nothing of it is left. Which time keeps the layout depends on
    the schedule: the default is that of the shipped network, whose schedule is shifted. The paper
    takes 0.3 to 0.6 of an unshifted one. At the default no step is guided by default: the noise
    levels are below the stage's guidance interval. A guidance scale that is passed acts.

    Reference: SDEdit (Meng et al., 2021), arXiv 2108.01073, Algorithm 1.
    """

    takes_strength = True
    strength = 0.15

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        denoise = given.denoiser(given.targets, given.guidance_scale)
        rows = len(given.targets)
        for state in sdedit(
            denoise,
            given.image.expand(rows, -1, -1, -1),
            given.strength,
            given.noise("x_T", 0),
            given.timesteps,
            given.schedule,
            given.sampler,
            partial(given.noise, "step"),
            eta=given.eta,
        ):
            yield with_source(given, state)


@dataclass(frozen=True)
class BlendedDiffusion(ImageEditMethod):
    """SDEdit that puts the image back outside of a mask, noised as it is inside, after every step.
    At the end the outside is the image's to the last bit.

    Reference: Blended Diffusion (Avrahami et al., 2021), arXiv 2111.14818, Algorithm 2. Differs
        from the paper: the target's prompt guides, not CLIP.
    """

    takes_strength = takes_mask = needs_mask = True

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        known = 1 - mask_of(given)
        put_back = repaint_callback(
            given.image, known, partial(given.noise, "known"), given.schedule
        )
        rows = len(given.targets)
        for state in sdedit(
            given.denoiser(given.targets, given.guidance_scale),
            given.image.expand(rows, -1, -1, -1),
            given.strength,
            given.noise("x_T", 0),
            given.timesteps,
            given.schedule,
            given.sampler,
            partial(given.noise, "step"),
            eta=given.eta,
            after_step=put_back,
        ):
            yield with_source(given, state)


@dataclass(frozen=True)
class RePaint(ImageEditMethod):
    """Inpainting: inside of a mask the image is generated from noise, and each step is taken
    several times, so that inside and outside agree. The outside is the image's to the last bit.

    Args:
        rounds: How often each step is taken, at least 1 (default 5).
        jump: Steps that noise leads back over, at least 1 (default 1).

    Raises:
        ValueError: A value is out of range.

    Reference: RePaint (Lugmayr et al., 2022), arXiv 2201.09865, Algorithm 1. Differs from the
        paper, which takes 250 steps, 10 rounds and jumps of 10: our samplers take about 30 steps.
    """

    takes_mask = needs_mask = True
    samplers = ("ddpm", "ddim")

    rounds: int = 5
    jump: int = 1

    def __post_init__(self):
        as_integer("rounds", self.rounds, low=1), as_integer("jump", self.jump, low=1)

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        rows = len(given.targets)
        for state in repaint(
            given.denoiser(given.targets, given.guidance_scale),
            given.image,
            1 - mask_of(given),
            given.noise("x_T", 0).expand(rows, -1, -1, -1),
            given.timesteps,
            given.schedule,
            given.noise,
            self.rounds,
            given.sampler,
            self.jump,
            given.eta,
        ):
            yield with_source(given, state)


@dataclass(frozen=True)
class Inpainting(ImageEditMethod):
    """Inpainting by a network that was fine-tuned for it: it sees what is known of the image, and
    where, in further input channels. Inside of the mask the image is generated from noise. Nothing
    is put back on the way, only at the end: the outside is the image's to the last bit.

    The pipeline's first stage has to have `inpainting`: `python -m train.inpainting` makes one.

    Reference: GLIDE (Nichol et al., 2021), arXiv 2112.10741, Section 3.
    """

    takes_mask = needs_mask = needs_trained = True

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        rows = len(given.targets)
        known = known_part(given.image, 1 - mask_of(given)).expand(rows, -1, -1, -1)
        denoise = given.denoiser(given.targets, given.guidance_scale, known=known)
        for state in given.sample(denoise, given.noise("x_T", 0).expand(rows, -1, -1, -1)):
            yield with_source(given, state)


@dataclass(frozen=True)
class DiffEdit(ImageEditMethod):
    """The image is inverted up to the time `strength` and sampled with the target's prompt; outside
    of a mask its inverted trajectory is put back after every step. Without a mask, the mask is
    where the two prompts disagree about the noised image.

    Args:
        disagreement: How that mask is made (default `DiffEditMask()`).

    Reference: DiffEdit (Couairon et al., 2022), arXiv 2210.11427, Section 3.2. Differs from the
        paper: the threshold of the mask is that of `DiffEditMask`, noise is added to the image 4
        times and not 10, and the strength is less, as the schedule of the shipped network is
        shifted.
    """

    inverts = takes_strength = takes_mask = reads_source = True
    samplers = ("ddim",)
    strength = 0.3

    disagreement: DiffEditMask = DiffEditMask()

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        # 1. the mask
        mask = given.mask
        if mask is None:
            mask = disagreement_mask(given, self.disagreement)
        # 2. the inverted trajectory, by the null text as in the paper
        pivots = given.invert(given.source.null())

        def put_back(x: Tensor, step: int, s: float) -> Tensor:
            return torch.where(mask > 0, x, pivots[step + 1])

        # 3. sampling that keeps to it outside of the mask
        denoise = given.denoiser(given.targets, given.guidance_scale)
        x_t = pivots[0].expand(len(given.targets), -1, -1, -1)
        for state in given.sample(denoise, x_t, put_back):
            yield with_source(replace(given, mask=mask), state)


# ---------------------------------------------------------------- fitted to the image


@dataclass(frozen=True)
class Imagic(ImageEditMethod):
    """A text and a copy of the network are fitted to the image; then the fitted text is moved
    towards the target's, and the image sampled from noise. It needs no caption, and lets objects
    take another pose, size or place. The pipeline's own weights stay as they are.

    Differs from the paper: few steps, at rates that fit a small network, on several noise levels at
    a time. The paper fits the text in 100 steps and the network in 1,500.

    Args:
        interpolation: eta: how far the text is moved, in [0, 1] (default 0.7). At 0 the image is
            reconstructed, which is also what row 0 shows; at 1 the text is the target's.
        text_steps: Steps that fit the text, at least 0 (default 10).
        network_steps: Steps that fit the network, at least 0 (default 30).
        text_rate: Learning rate of the text, above 0 (default 0.1).
        network_rate: Learning rate of the network, above 0 (default 1e-3).
        noise_levels: Times at which each step denoises the image, at least 1 (default 2).

    Raises:
        ValueError: A value is out of range.

    Reference: Imagic (Kawar et al., 2022), arXiv 2210.09276, Section 3.2.
    """

    optimizes = True

    interpolation: float = 0.7
    text_steps: int = 10
    network_steps: int = 30
    text_rate: float = 0.1
    network_rate: float = 1e-3
    noise_levels: int = 2

    def __post_init__(self):
        if not 0 <= as_number("interpolation", self.interpolation) <= 1:
            raise ValueError(
                f"interpolation {self.interpolation}; expected a number from 0 (the image) to 1 "
                "(the target)"
            )
        for name, low in (("text_steps", 0), ("network_steps", 0), ("noise_levels", 1)):
            as_integer(name, getattr(self, name), low=low)
        for name in ("text_rate", "network_rate"):
            if not as_number(name, getattr(self, name)) > 0:
                raise ValueError(f"{name} {getattr(self, name)}; expected a number above 0")

    def run(self, given: GivenImage) -> Iterator[SamplingState]:
        # 1. a network for each target; the first one's generates the source as well
        texts, networks = zip(
            *(self.fit(given, given.targets[i : i + 1]) for i in range(len(given.targets)))
        )
        # 2. the texts to sample from
        rows = [
            interpolate(text, given.targets[i : i + 1], self.interpolation)
            for i, text in enumerate(texts)
        ]
        rows[0] = concatenate([texts[0], rows[0]])
        # 3. each by its network
        denoisers = [n.denoiser(row, given.guidance_scale) for n, row in zip(networks, rows)]
        sizes = [len(row) for row in rows]

        def by_rows(x: Tensor, t: Tensor) -> Tensor:
            return torch.cat([d(rows, t) for d, rows in zip(denoisers, x.split(sizes))])

        yield from given.sample(by_rows, given.for_all(given.noise("x_T", 0)))

    def fit(
        self, given: GivenImage, target: TextEmbeddings
    ) -> tuple[TextEmbeddings, TrainableCopy]:
        """The text that describes the image best, near a target's, and a network that generates the
        image from it.
        """
        if given.copy is None:
            raise ValueError("this method trains a copy of the network, and there is none")
        network = given.copy()

        def loss(text: TextEmbeddings, step: int) -> Tensor:
            n = self.noise_levels
            eps = torch.cat([given.noise("imagic", step * n + i) for i in range(n)])
            return network.loss(
                given.image.expand(n, -1, -1, -1),
                concatenate([text] * n),
                spread_times(step, n).to(given.timesteps),
                eps,
            ).mean()

        # 1. the text
        texts = optimize_text(loss, target, self.text_steps, self.text_rate)
        *_, text = [target, *given.track(texts, "text", self.text_steps)]
        # 2. the network
        losses = fine_tune(loss, text, network.parameters(), self.network_steps, self.network_rate)
        for _ in given.track(losses, "network", self.network_steps):
            pass
        return text, network


def with_source(given: GivenImage, state: SamplingState) -> SamplingState:
    """A state of the targets with the given image as row 0, and, in `x_0_hat`, outside of the
    mask."""
    edited = state.x_0_hat
    if given.mask is not None:
        edited = torch.where(given.mask > 0, edited, given.image)
    return replace(
        state,
        x=torch.cat([given.image, state.x]),
        x_0_hat=torch.cat([given.image, edited]),
    )


def mask_of(given: GivenImage) -> Tensor:
    """The mask of a method that needs one; a ValueError if there is none."""
    if given.mask is None:
        raise ValueError("this method needs a mask: where may the image change?")
    return given.mask


# ---------------------------------------------------------------- masks that are found


def disagreement_mask(given: GivenImage, how: DiffEditMask) -> Tensor:
    """Where the source's prompt and each target's disagree about the noised image.

    Returns:
        [targets, 1, h, w] of 0 and 1.
    """
    blender = DiffEditBlender(how)
    blender.set_source(given.image, given.renoise_and_denoise)
    assert blender.masks is not None  # now that it has the source
    return blender.masks.to(given.image.dtype)


def word_mask(given: GivenImage, how: LocalBlend) -> Tensor:
    """Where the source's prompt attends to words, in the given image.

    The image is noised to a few times and denoised with the source's prompt, and the attention
    maps are recorded.

    Args:
        given: The image and the prompts.
        how: The words of the source, and the threshold of the map.

    Returns:
        [1, 1, h, w] of 0 and 1.
    """
    # 1. the maps of the source's words; the words of targets are of no use, as they have no image
    alone = replace(given, tokens=given.tokens[:1], text=given.source)
    blender = how.blender([given.tokens[0], given.tokens[0]], given.sites)
    maps = AttentionStore()
    maps.reset(alone.tokens, blender.maps.sites)
    denoise = given.denoiser(given.source, 1.0, maps.wrap_schedule(None))
    for number, t in enumerate(WORD_MAP_TIMES):
        denoise(given.noised(t, "reread", number), given.timesteps.new_tensor(t))
    # 2. where they exceed the threshold, on the grid of the image
    mask = how.mask(maps, 0)[None, None].to(given.image)
    return torch.nn.functional.interpolate(mask, size=given.image.shape[-2:], mode="nearest")


# ---------------------------------------------------------------- by name

IMAGE_EDIT_METHODS: dict[str, ImageEditMethod] = {
    "ddim": DDIMInversion(),
    "negative-prompt": NegativePromptInversion(),
    "null-text": NullTextInversion(),
    "direct": DirectInversion(),
    "edict": EdictInversion(),
    "pnp": DirectInversion(),
    "masactrl": DirectInversion(),
    "sdedit": SDEdit(),
    "blend": BlendedDiffusion(),
    "repaint": RePaint(),
    "diffedit": DiffEdit(),
    "inpaint": Inpainting(),
    "imagic": Imagic(),
}
# the edit of a method that is one name for two things
EDIT_OF_METHOD: dict[str, Edit] = {"pnp": PlugAndPlay(), "masactrl": MasaCtrl()}
