"""Where an edit may change the image, and where it stays the source's: `LocalBlend` by attention
maps, `DiffEditMask` by what the prompts disagree about.

Both blend x_0_hat, not x_t. So outside of the mask the image is the source's, whatever a multi-step
sampler remembers: with LocalBlend to the last bit. With DiffEditMask the source is sampled by
itself first, which rounds otherwise.

References: Prompt-to-Prompt (Hertz et al., 2022), arXiv 2208.01626, for LocalBlend (in its revised
preprint); DiffEdit (Couairon et al., 2022), arXiv 2210.11427, Section 3.2, for the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.editing.alignment import token_positions, word_indices
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.base import BoundEdit, Edit, check_bindable
from imagen_mini.editing.windows import Window, as_window, within
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import Tokens
from imagen_mini.utils.checks import as_integer, as_number
from imagen_mini.utils.morphology import close, dilate


class Blend(Edit):
    """What LocalBlend and DiffEditMask share. Alone they blend what the target prompts generate; in
    a Chain, what its other edits make.
    """

    steps: Window

    def blender(
        self, tokens: list[Tokens], sites: list[AttentionSite]
    ) -> LocalBlender | DiffEditBlender:
        """What does the blending, for these prompts and attention sites."""
        raise NotImplementedError

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundBlend:
        check_bindable(tokens, sites)
        return BoundBlend(self, self.blender(tokens, sites))


@dataclass(frozen=True)
class LocalBlend(Blend):
    """The image changes only where the named words are attended to; elsewhere it stays the
    source's:

        x_0_hat* <- x_0_hat + mask (x_0_hat* - x_0_hat)

    A map is a mean over heads, over the layers of one grid, and over the steps so far. The mask is
    where the sum of the maps of `words`, dilated by one place, exceeds `threshold` of its maximum,
    in the source or in the target; without the places found for `exclude` in the same way.

    Differs from the paper's code, which blends x_t: the result of our loop is x_0_hat.

        LocalBlend("circle", "star")                 # these words, in whichever prompt has them
        LocalBlend(["circle"], ["star"], ["ring"])   # the words of each prompt, the source's first

    The words of a target count in its own row alone, as in the authors' code, so each of several
    targets may have its own.

    Args:
        words: Words of the source or of targets; or, for each prompt, a word or a list of words.
        exclude: Words whose places stay as they are, in either form (default: none).
        threshold: Share of a map's maximum, in (0, 1) (default 0.3).
        size: The grid, size x size; None (the default): the largest that attends to words.
        steps: Window of the steps in which images are blended (default (0.2, 1.0)).

    Raises:
        TypeError: A word is not a string.
        ValueError: No words, or a value out of range.
    """

    words: Words
    exclude: Words = ()
    threshold: float = 0.3
    size: int | None = None
    steps: Window = (0.2, 1.0)

    def __init__(
        self,
        *words: str | Sequence[str],
        exclude: str | Sequence[str | Sequence[str]] = (),
        threshold: float = 0.3,
        size: int | None = None,
        steps: Window = (0.2, 1.0),
    ):
        if not words:
            raise ValueError(
                "LocalBlend needs the words whose places may change, for example "
                'LocalBlend("circle", "star")'
            )
        if not 0 < as_number("threshold", threshold) < 1:
            raise ValueError(
                f"threshold {threshold}: expected a share of a map's highest value, above 0 "
                "and below 1"
            )
        for name, value in {
            "words": _as_words(words, "words"),
            "exclude": _as_words((exclude,) if isinstance(exclude, str) else exclude, "exclude"),
            "threshold": threshold,
            "size": size,
            "steps": as_window(steps, "steps"),
        }.items():
            object.__setattr__(self, name, value)

    def blender(self, tokens: list[Tokens], sites: list[AttentionSite]) -> LocalBlender:
        return LocalBlender(self, tokens, sites)

    def mask(self, maps: AttentionStore, target: int) -> Tensor:
        """Where target number `target` may differ from the source, by maps of one grid: bool [size,
        size].
        """

        def attention_mask(words: Words) -> Tensor:
            found = torch.tensor(False)
            for row in (0, target):
                if tokens := [
                    i
                    for word in _words_of_prompt(words, row)
                    for n in word_indices(maps.tokens[row], word)
                    for i in maps.tokens[row].positions_of_word(n)
                ]:
                    heat = dilate(maps.of_tokens(tokens, row)[None])[0]
                    found = found.to(heat.device) | (heat > self.threshold * heat.max())
            return found

        return attention_mask(self.words) & ~attention_mask(self.exclude)


# words of any prompt, or for each prompt a tuple of its words
Words = tuple[str, ...] | tuple[tuple[str, ...], ...]


def _as_words(words: Sequence[str | Sequence[str]], name: str) -> Words:
    """Words as LocalBlend keeps them. One list among them means: words for each prompt."""
    by_prompt = any(isinstance(of, (list, tuple)) for of in words)
    rows = [tuple(of) if isinstance(of, (list, tuple)) else (of,) for of in words]
    for word in (word for row in rows for word in row):
        if not isinstance(word, str):
            raise TypeError(
                f"LocalBlend: {name} has {word!r} ({type(word).__name__}); expected words, or for "
                "each prompt a list of words"
            )
    return tuple(rows) if by_prompt else tuple(word for (word,) in rows)


def _words_of_prompt(words: Words, row: int) -> tuple[str, ...]:
    """The words that are looked for in prompt number `row`."""
    if words and isinstance(words[0], tuple):
        return cast(tuple[str, ...], words[row])
    return cast(tuple[str, ...], words)


def _check_words(words: Words, name: str, tokens: Sequence[Tokens]) -> None:
    """Raise ValueError unless the prompts have these words."""
    if words and isinstance(words[0], tuple):
        if len(words) != len(tokens):
            raise ValueError(
                f"LocalBlend: {name} for {len(words)} prompts, but there are {len(tokens)}; "
                "expected a word or a list of words for each, the source first"
            )
        for of, prompt in zip(words, tokens):
            for word in of:
                token_positions(prompt, word)  # an error that says what words there are
    else:
        for word in cast(tuple[str, ...], words):
            if not any(word_indices(prompt, word) for prompt in tokens):
                token_positions(tokens[-1], word)


@dataclass(frozen=True)
class DiffEditMask(Blend):
    """The image changes only where the prompts disagree about the source; elsewhere it is the
    source's.

    The source is sampled first. It is then noised to time `at`, and denoised by the source's and by
    the target's prompt, with `noises` noises. The mask is where the mean difference of the two
    x_0_hat exceeds `threshold` of its maximum. Gaps are closed, and the mask is dilated.

    Differs from the paper: its edit starts from inverted noise, ours from the noise of the source.
    It adds half of the noise (here up to a time of 0.25), 10 times (here 4), and cuts at half of
    the maximum (here at 0.3). Its mask is neither smoothed, closed nor dilated.

    Args:
        threshold: Share of the largest difference, in (0, 1) (default 0.3).
        at: The time, in (0, 1) (default 0.25).
        grow: Dilation in 1/64 of the width, at least 0 (default 2).
        noises: How many noises, at least 1 (default 4).
        steps: Window of the steps in which images are blended (default 1.0, all of them).

    Raises:
        ValueError: A value is out of range.

    Reference: DiffEdit (Couairon et al., 2022), arXiv 2210.11427, Section 3.2.
    """

    threshold: float = 0.3
    at: float = 0.25
    grow: int = 2
    noises: int = 4
    steps: Window = 1.0

    def __post_init__(self):
        object.__setattr__(self, "steps", as_window(self.steps, "steps"))
        if not 0 < as_number("threshold", self.threshold) < 1:
            raise ValueError(
                f"threshold {self.threshold}: expected a share of the largest difference, "
                "above 0 and below 1"
            )
        as_integer("noises", self.noises), as_integer("grow", self.grow)
        if not 0 < as_number("at", self.at) < 1 or self.noises < 1 or self.grow < 0:
            raise ValueError(
                f"at {self.at}, noises {self.noises}, grow {self.grow}: expected a time "
                "between 0 and 1, at least one noise, and no negative growth"
            )

    def blender(self, tokens: list[Tokens], sites: list[AttentionSite]) -> DiffEditBlender:
        return DiffEditBlender(self)


class LocalBlender:
    """A LocalBlend that knows its prompts: it records the maps of the words."""

    needs_source = False

    def __init__(self, blend: LocalBlend, tokens: list[Tokens], sites: list[AttentionSite]):
        self.blend, self.maps = blend, AttentionStore()
        of_words = [site for site in sites if site.kind != "self"]
        sizes = sorted({site.size for site in of_words})
        size = sizes[-1] if blend.size is None else blend.size
        if size not in sizes:
            raise ValueError(
                f"LocalBlend(size={size}): this network attends to words on grids of "
                f"{', '.join(map(str, sizes))}; pass one of these"
            )
        _check_words(blend.words, "words", tokens)
        _check_words(blend.exclude, "exclude", tokens)
        for row, target in enumerate(tokens[1:], start=1):
            if not any(
                word_indices(tokens[i], word)
                for i in (0, row)
                for word in _words_of_prompt(blend.words, i)
            ):
                raise ValueError(
                    f"LocalBlend: neither the source {' '.join(tokens[0].words)!r} nor the target "
                    f"{' '.join(target.words)!r} has one of {', '.join(map(repr, blend.words))}, "
                    "so nothing could change; name a word of the one or of the other"
                )
        self.maps.reset(tokens, [site for site in of_words if site.size == size])

    def wrap(self, control: AttentionControl | None, done: float) -> AttentionControl | None:
        return self.maps.wrap(control, done)

    def __call__(self, x_0_hat: Tensor, active: bool) -> Tensor:
        # nothing recorded yet: source and targets read one prompt
        if not active or not self.maps.edited:
            return x_0_hat
        masks = torch.stack(
            [self.blend.mask(self.maps, target) for target in range(1, len(x_0_hat))]
        )
        masks = F.interpolate(masks[:, None].to(x_0_hat), size=x_0_hat.shape[-2:], mode="nearest")
        return torch.cat([x_0_hat[:1], torch.where(masks > 0, x_0_hat[1:], x_0_hat[:1])])


class DiffEditBlender:
    """A DiffEditMask that knows its prompts: it is given the finished source before sampling."""

    needs_source = True

    def __init__(self, blend: DiffEditMask):
        self.blend = blend
        self.source: Tensor | None = None
        self.masks: Tensor | None = None

    def set_source(
        self, source: Tensor, renoise_and_denoise: Callable[[float, int], Tensor]
    ) -> None:
        """See `BoundEdit.set_source`."""
        blend = self.blend
        x_0_hats = torch.stack([renoise_and_denoise(blend.at, i) for i in range(blend.noises)])
        differences = (x_0_hats[:, 1:] - x_0_hats[:, :1]).abs().amax(2, keepdim=True).mean(0)
        self.source, self.masks = source, self.mask(differences)

    def mask(self, difference: Tensor) -> Tensor:
        """Where targets may differ from the source: differences [targets, 1, h, w] -> bool of that
        shape.
        """
        unit = max(1, difference.shape[-1] // 64)
        smooth = F.avg_pool2d(difference, 2 * unit + 1, 1, unit, count_include_pad=False)
        highest = smooth.amax((1, 2, 3), keepdim=True)
        mask = (smooth > self.blend.threshold * highest).to(difference.dtype)
        return dilate(close(mask, 4 * unit), self.blend.grow * unit) > 0

    def wrap(self, control: AttentionControl | None, done: float) -> AttentionControl | None:
        return control

    def __call__(self, x_0_hat: Tensor, active: bool) -> Tensor:
        if not active or self.source is None or self.masks is None:
            return x_0_hat
        return torch.cat([x_0_hat[:1], torch.where(self.masks, x_0_hat[1:], self.source)])


@dataclass(frozen=True)
class BoundBlend(BoundEdit):
    """A blend that knows its prompts, around what other edits do (by default nothing)."""

    blend: Blend
    blender: LocalBlender | DiffEditBlender
    inner: BoundEdit = BoundEdit()

    def control_at(self, done: float) -> AttentionControl | None:
        return self.blender.wrap(self.inner.control_at(done), done)

    def after_denoising(self, x_0_hat: Tensor, done: float) -> Tensor:
        """The source's image wherever the targets may not differ from it. While the prompt is
        shared, all rows are the source anyway.
        """
        active = within(as_window(self.blend.steps, "steps"), done)
        active = active and not self.rows_identical(done)
        return self.blender(self.inner.after_denoising(x_0_hat, done), active)

    @property
    def needs_source(self) -> bool:
        return self.blender.needs_source

    def set_source(
        self, source: Tensor, renoise_and_denoise: Callable[[float, int], Tensor]
    ) -> None:
        if isinstance(self.blender, DiffEditBlender):
            self.blender.set_source(source, renoise_and_denoise)

    def rows_identical(self, done: float) -> bool:
        return self.inner.rows_identical(done)
