"""Where an edit may change the image, and where it stays the source's: the two ways of
`prompt_to_prompt.LocalBlend` and `DiffEditMask` at work.

Both blend x_0_hat, not x: outside the mask the image is the source's to the last bit, whatever the
sampler remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.editing.alignment import token_positions, word_indices
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.base import BoundEdit, Edit, check_bindable
from imagen_mini.editing.windows import Window, as_window, within
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import Tokens


class Blend(Edit):
    """What LocalBlend and DiffBlend share: alone they blend what target prompts draw; in a Chain,
    what its other edits make.
    """

    steps: Window

    def blending(
        self, tokens: list[Tokens], sites: list[AttentionSite]
    ) -> LocalBlender | DiffEditBlender:
        """The blend at work, for these prompts and attention sites."""
        raise NotImplementedError

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundBlend:
        check_bindable(tokens, sites)
        return BoundBlend(self, self.blending(tokens, sites))


@dataclass(frozen=True)
class LocalBlend(Blend):
    """Only where the named words look does the image change; elsewhere it stays the source's:

        x_0_hat* <- x_0_hat + mask (x_0_hat* - x_0_hat)

    The mask is where the maps of `words`, in the source or in the target, reach `threshold` of
    their highest value, less where those of `exclude` do; both are grown by one place on all sides.
    A map is a mean over heads, over the layers with a grid of `size` x `size` (None: the largest),
    and over the steps so far. `steps`: in which share of the walk images are blended. Differs from
    the code of the paper, which blends x: the end of our walk is x_0_hat, and a multi-step sampler
    remembers it.
    """

    words: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    threshold: float = 0.3
    size: int | None = None
    steps: Window = (0.2, 1.0)

    def __init__(
        self,
        *words: str,
        exclude: str | Sequence[str] = (),
        threshold: float = 0.3,
        size: int | None = None,
        steps: Window = (0.2, 1.0),
    ):
        if not words:
            raise ValueError(
                "LocalBlend needs the words whose places may change, for example "
                'LocalBlend("circle", "star")'
            )
        if not 0 < threshold < 1:
            raise ValueError(
                f"threshold {threshold}: expected a share of a map's highest value, above 0 "
                "and below 1"
            )
        for name, value in {
            "words": words,
            "exclude": (exclude,) if isinstance(exclude, str) else tuple(exclude),
            "threshold": threshold,
            "size": size,
            "steps": as_window(steps, "steps"),
        }.items():
            object.__setattr__(self, name, value)

    def blending(self, tokens: list[Tokens], sites: list[AttentionSite]) -> LocalBlender:
        return LocalBlender(self, tokens, sites)

    def mask(self, maps: AttentionStore, target: int) -> Tensor:
        """Where prompt number `target` may differ from the source, number 0, by maps of one size:
        bool [size, size].
        """

        def attention_mask(words: Sequence[str]) -> Tensor:
            found = torch.tensor(False)
            for row in (0, target):
                if tokens := [
                    i
                    for word in words
                    for n in word_indices(maps.tokens[row], word)
                    for i in maps.tokens[row].positions_of_word(n)
                ]:
                    heat = F.max_pool2d(maps.of_tokens(tokens, row)[None], 3, 1, 1)[0]
                    found = found.to(heat.device) | (heat > self.threshold * heat.max())
            return found

        return attention_mask(self.words) & ~attention_mask(self.exclude)


@dataclass(frozen=True)
class DiffEditMask(Blend):
    """Only where the prompts disagree about the source does the image change; elsewhere it is the
    source's, as it came out.

    The source is drawn first, noised to time `at`, and read again by source and target prompt,
    `noises` times. The mask is where the two x_0_hat, on the mean, differ by `threshold` of the
    most that they do; gaps are closed, and it is grown by `grow` / 64 of the width. Once source and
    targets part, what lies outside it is known to the last bit. `steps`: in which share of the walk
    images are blended.

    Source: DiffEdit (Couairon et al., 2022), Section 3.2, for the mask; its edit starts from
    inverted noise, ours from the source's own.
    """

    threshold: float = 0.3
    at: float = 0.25
    grow: int = 2
    noises: int = 4
    steps: Window = 1.0

    def __post_init__(self):
        object.__setattr__(self, "steps", as_window(self.steps, "steps"))
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"threshold {self.threshold}: expected a share of the largest difference, "
                "above 0 and below 1"
            )
        if not 0 < self.at < 1 or self.noises < 1 or self.grow < 0:
            raise ValueError(
                f"at {self.at}, noises {self.noises}, grow {self.grow}: expected a time "
                "between 0 and 1, at least one noise, and no negative growth"
            )

    def blending(self, tokens: list[Tokens], sites: list[AttentionSite]) -> DiffEditBlender:
        return DiffEditBlender(self)


# ---------------------------------------------------------------- at work


class LocalBlender:
    """A LocalBlend at work: it watches the maps of the words."""

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
        for word in blend.words + blend.exclude:
            for target in tokens[1:]:
                if not word_indices(tokens[0], word):
                    token_positions(target, word)  # an error that says what words there are
        self.maps.reset(tokens, [site for site in of_words if site.size == size])

    def watch(self, control: AttentionControl | None, t: float) -> AttentionControl | None:
        return self.maps.wrap(control, t)

    def __call__(self, x_0_hat: Tensor, active: bool) -> Tensor:
        # nothing recorded yet: source and targets read one prompt
        if not active or not self.maps.edited:
            return x_0_hat
        masks = torch.stack(
            [self.blend.mask(self.maps, target) for target in range(1, len(x_0_hat))]
        )
        masks = F.interpolate(masks[:, None].to(x_0_hat), size=x_0_hat.shape[-2:], mode="nearest")
        return torch.cat([x_0_hat[:1], torch.where(masks > 0, x_0_hat[1:], x_0_hat[:1])])


def dilate(mask: Tensor, by: int) -> Tensor:
    """A mask of 0 and 1 [b, 1, h, w], larger by so many pixels on all sides."""
    return F.max_pool2d(mask, 2 * by + 1, 1, by)


def close(mask: Tensor, by: int) -> Tensor:
    """A mask without its gaps and holes of up to twice so many pixels: grown, and shrunk again."""
    around = F.pad(mask, [by] * 4)
    return 1 - dilate(1 - dilate(around, by), by)[..., by:-by, by:-by]


class DiffEditBlender:
    """A DiffBlend at work: it is shown the source's finished image before the walk."""

    needs_source = True

    def __init__(self, blend: DiffEditMask):
        self.blend = blend
        self.source = self.masks = None

    def set_source(
        self, source: Tensor, renoise_and_denoise: Callable[[float, int], Tensor]
    ) -> None:
        """`source` [1, 3, h, w]; `renoise_and_denoise(t, i)`: x_0_hat [1 + targets, 3, h, w] by
        every prompt of the source, noised to time t with noise number i.
        """
        reads = torch.stack(
            [renoise_and_denoise(self.blend.at, i) for i in range(self.blend.noises)]
        )
        self.source, self.masks = (
            source,
            self.mask((reads[:, 1:] - reads[:, :1]).abs().amax(2, keepdim=True).mean(0)),
        )

    def mask(self, difference: Tensor) -> Tensor:
        """Differences [targets, 1, h, w] -> where targets may differ from the source, bool of that
        shape.
        """
        unit = max(1, difference.shape[-1] // 64)
        smooth = F.avg_pool2d(difference, 2 * unit + 1, 1, unit, count_include_pad=False)
        mask = (smooth > self.blend.threshold * smooth.amax((1, 2, 3), keepdim=True)).to(
            difference.dtype
        )
        return dilate(close(mask, 4 * unit), self.blend.grow * unit) > 0

    def watch(self, control: AttentionControl | None, t: float) -> AttentionControl | None:
        return control

    def __call__(self, x_0_hat: Tensor, active: bool) -> Tensor:
        return (
            torch.cat([x_0_hat[:1], torch.where(self.masks, x_0_hat[1:], self.source)])
            if active
            else x_0_hat
        )


@dataclass(frozen=True)
class BoundBlend(BoundEdit):
    """A blend that knows its prompts, around what other edits do (by default nothing)."""

    blend: Blend
    blending: LocalBlender | DiffEditBlender
    inner: BoundEdit = BoundEdit()

    def control_at(self, t: float) -> AttentionControl | None:
        return self.blending.watch(self.inner.control_at(t), t)

    def after_denoising(self, x_0_hat: Tensor, t: float) -> Tensor:
        """With the source's image wherever the targets may not differ from it."""
        return self.blending(
            self.inner.after_denoising(x_0_hat, t), bool(within(self.blend.steps, t))
        )

    @property
    def needs_source(self) -> bool:
        return self.blending.needs_source

    def set_source(
        self, source: Tensor, renoise_and_denoise: Callable[[float, int], Tensor]
    ) -> None:
        self.blending.set_source(source, renoise_and_denoise)

    def rows_identical(self, t: float) -> bool:
        return self.inner.rows_identical(t)
