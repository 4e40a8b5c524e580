"""The best denoiser there can be for a caption of two things: E[x_0 | x_t, caption], computed
instead of learned. What a network is held against.

Things do not overlap, so of every image that fits the caption the likelihood is a product of one
factor for each thing:

    log p(x_t | x_0) = const + g_1(place, size of the first) + g_2(place, size of the second)
    g(p) = (alpha <x_t - alpha b, d_p> - alpha^2 ||d||^2 / 2) / sigma^2

where b is the plain background and d_p what the thing adds to it at place p. All pairs of places
can be gone through, with the world's own rules for where two things may stand. No network's mean
squared error can be lower; how much higher it is (its regret) is what training could still win.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.diffusion.schedules import alpha_sigma
from imagen_mini.scenes.captions import RELATION_PROB, Description
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import (
    GRID,
    MIN_GAP,
    SIZES,
    Scene,
    SceneObject,
    held_out,
    unambiguous_relation,
)


@dataclass(frozen=True)
class ObjectTemplate:
    """A thing of one size: where it may stand, as rows (y, x), and what it adds to the background,
    [1, 3, k, k], its centre in the middle.
    """

    obj: SceneObject
    places: Tensor
    added: Tensor

    @property
    def radius(self) -> int:
        return self.added.shape[-1] // 2

    def scores(self, rest: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """g at every place [b, places], of what x_t has over its background, rest [b, 3, 64, 64]."""
        match = F.conv2d(rest, self.added, padding=self.radius)[
            :, 0, self.places[:, 0], self.places[:, 1]
        ]
        return (alpha * match - alpha**2 * self.added.square().sum() / 2) / sigma**2

    def expected(self, chances: Tensor) -> Tensor:
        """The mean of what it adds, [3, 64, 64], if it stands at each place with these chances
        [places].
        """
        where = chances.new_zeros(1, 1, GRID, GRID)
        where[0, 0, self.places[:, 0], self.places[:, 1]] = chances
        return F.conv_transpose2d(where, self.added, padding=self.radius)[0]


class OptimalDenoiser:
    """x_0_hat = E[x_0 | x_t, caption] for one caption: `description` has two things with colour and
    shape, and a background; sizes, a relation if it likes.

    The scenes are those of training that such a caption could have been written for; the time is
    that of a few million pairs of places for each image. ValueError for other descriptions.
    """

    def __init__(self, description: Description):
        if (
            len(description.objects) != 2
            or description.background is None
            or any(t.color is None or t.texture is not None for t in description.objects)
            or len(set(description.objects)) < 2
        ):
            raise ValueError(
                f"{description}: expected two things with their colours, without textures, and "
                "a background; not twice the same"
            )
        self.background = description.background
        self.ground = self._seen()
        self.kinds = [
            [self._kind(obj.shape, obj.color, size) for size in ([obj.size] if obj.size else SIZES)]
            for obj in description.objects
        ]
        self.log_prior = {
            (i, j): self._prior(a, b, description.relation).log()
            for i, a in enumerate(self.kinds[0])
            for j, b in enumerate(self.kinds[1])
        }
        if all(log.isneginf().all() for log in self.log_prior.values()):
            raise ValueError(
                f"{description}: training has no such scene; it holds out some pairs of colour "
                "and shape, and some relations"
            )

    def _seen(self, *objects: SceneObject) -> Tensor:
        return render([Scene(objects, self.background)], GRID)[0].double()

    def _kind(self, shape: str, color: str, size: str) -> ObjectTemplate:
        middle = GRID // 2
        obj = SceneObject(middle, middle, shape, color, size, "solid")  # at 64 px no texture shows
        # as `sample_free_position` draws
        k, line = (
            math.ceil(obj.reach) + 1,
            torch.arange(int(obj.reach + 1.5), int(GRID - obj.reach - 0.5) + 1),
        )
        added = (self._seen(obj) - self.ground)[
            None, :, middle - k : middle + k + 1, middle - k : middle + k + 1
        ]
        return ObjectTemplate(obj, torch.cartesian_prod(line, line), added)

    def _prior(self, a: ObjectTemplate, b: ObjectTemplate, relation: str | None) -> Tensor:
        """How likely each pair of places is, and then this caption, [places of a, places of b]:
        either thing may have been placed first.
        """
        offset = b.places[None] - a.places[:, None]
        apart = (offset.square().sum(-1) >= (a.obj.reach + b.obj.reach + MIN_GAP) ** 2).double()
        rules = torch.tensor(
            [
                [
                    self._said(a.obj, replace(b.obj, x=a.obj.x + dx, y=a.obj.y + dy), relation)
                    for dx in range(1 - GRID, GRID)
                ]
                for dy in range(1 - GRID, GRID)
            ],
            dtype=torch.float64,
        )
        free_b, free_a = (apart.sum(side, keepdim=True).clamp(min=1) for side in (1, 0))
        placed = apart / (len(a.places) * free_b) + apart / (len(b.places) * free_a)
        return placed * rules[offset[..., 0] + GRID - 1, offset[..., 1] + GRID - 1]

    def _said(self, a: SceneObject, b: SceneObject, relation: str | None) -> float:
        """The chance that training has this pair, and that its caption says this relation or none."""
        if held_out(Scene((a, b), self.background)):
            return 0.0
        clear = unambiguous_relation(a, b)
        return (
            RELATION_PROB * (clear == relation)
            if relation
            else 1 - RELATION_PROB * (clear is not None)
        )

    def __call__(self, x_t: Tensor, log_snr: float) -> Tensor:
        """x_t [b, 3, 64, 64] -> x_0_hat of the same shape, computed in float64."""
        alpha, sigma = alpha_sigma(torch.tensor(float(log_snr), dtype=torch.float64))
        rest = x_t.double().cpu() - alpha * self.ground
        scores = [[kind.scores(rest, alpha, sigma) for kind in kinds] for kinds in self.kinds]
        return torch.stack(
            [self._mean([[score[n] for score in of] for of in scores]) for n in range(len(x_t))]
        ).to(x_t)

    def _mean(self, scores: list[list[Tensor]]) -> Tensor:
        """Of one image: its expectation [3, 64, 64], by the scores of each thing's kinds at their
        places.
        """
        logs = {
            (i, j): scores[0][i][:, None] + scores[1][j] + log_prior
            for (i, j), log_prior in self.log_prior.items()
        }
        highest = max(log.max() for log in logs.values())
        chances = {pair: (log - highest).exp() for pair, log in logs.items()}
        total = sum(c.sum() for c in chances.values())
        mean = self.ground.clone()
        for which in (0, 1):
            for pair, c in chances.items():
                mean += self.kinds[which][pair[which]].expected(c.sum(1 - which) / total)
        return mean
