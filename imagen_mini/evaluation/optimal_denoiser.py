"""The optimal denoiser for a caption of two objects: E[x_0 | x_t, caption], computed instead of
learned. Networks are compared with it.

Objects do not overlap. So for every image that fits the caption the likelihood is a product of one
factor for each object:

    log p(x_t | x_0) = const + g_1(place, size of the first) + g_2(place, size of the second)
    g(p) = (alpha <x_t - alpha b, d_p> - alpha^2 ||d||^2 / 2) / sigma^2

where x_t = alpha x_0 + sigma eps, b is the plain background, and d_p is what the object adds to it
at place p. All pairs of places can be enumerated, with the world's rules for where two objects may
stand. No network has a lower mean squared error. How much higher it is, its excess error, is what
training could still win.
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
    """An object of one size, and where it may stand.

    `places` [n, 2] are rows (y, x); `added` [1, 3, k, k] is what the object adds to the background,
    with its centre in the middle.
    """

    obj: SceneObject
    places: Tensor
    added: Tensor

    @property
    def radius(self) -> int:
        return self.added.shape[-1] // 2

    def scores(self, rest: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """g at every place, [b, places], where `rest` [b, 3, 64, 64] is x_t - alpha b."""
        match = F.conv2d(rest, self.added, padding=self.radius)[
            :, 0, self.places[:, 0], self.places[:, 1]
        ]
        return (alpha * match - alpha**2 * self.added.square().sum() / 2) / sigma**2

    def expected(self, probs: Tensor) -> Tensor:
        """The mean of what it adds, [3, 64, 64], if `probs` [places] says where it stands."""
        where = probs.new_zeros(1, 1, GRID, GRID)
        where[0, 0, self.places[:, 0], self.places[:, 1]] = probs
        return F.conv_transpose2d(where, self.added, padding=self.radius)[0]


class OptimalDenoiser:
    """x_0_hat = E[x_0 | x_t, caption] for one caption.

    The scenes are those of training that such a caption could have been written for. One image
    takes the time of a few million pairs of places.

    Args:
        description: what the caption says: two different objects with colour and shape, and a
            background; sizes and a relation if there are any.

    Raises:
        ValueError: another kind of description, or one that fits no scene of training.
    """

    def __init__(self, description: Description):
        if (
            len(description.objects) != 2
            or description.background is None
            or any(o.color is None or o.texture is not None for o in description.objects)
            or len(set(description.objects)) < 2
        ):
            raise ValueError(
                f"{description}: expected two objects with their colours, without textures, and "
                "a background; not twice the same"
            )
        self.background = description.background
        # 1. The background, and what every object may add to it, by its size.
        self.plain = self._rendered()
        self.templates = [
            [
                self._template(obj.shape, obj.color, size)
                for size in ([obj.size] if obj.size else SIZES)
            ]
            for obj in description.objects
        ]
        # 2. How likely every pair of places is, by the two sizes.
        self.log_prior = {
            (i, j): self._prior(a, b, description.relation).log()
            for i, a in enumerate(self.templates[0])
            for j, b in enumerate(self.templates[1])
        }
        if all(log.isneginf().all() for log in self.log_prior.values()):
            raise ValueError(
                f"{description}: training has no such scene; it holds out some pairs of colour "
                "and shape, and some relations"
            )

    def _rendered(self, *objects: SceneObject) -> Tensor:
        return render([Scene(objects, self.background)], GRID)[0].double()

    def _template(self, shape: str, color: str, size: str) -> ObjectTemplate:
        middle = GRID // 2
        obj = SceneObject(middle, middle, shape, color, size, "solid")  # at 64 px no texture shows
        # the places that `sample_free_position` samples from
        k = math.ceil(obj.radius) + 1
        line = torch.arange(int(obj.radius + 1.5), int(GRID - obj.radius - 0.5) + 1)
        added = (self._rendered(obj) - self.plain)[
            None, :, middle - k : middle + k + 1, middle - k : middle + k + 1
        ]
        return ObjectTemplate(obj, torch.cartesian_prod(line, line), added)

    def _prior(self, a: ObjectTemplate, b: ObjectTemplate, relation: str | None) -> Tensor:
        """How likely each pair of places is, and then this caption, [places of a, places of b].

        Either object may have been placed first.
        """
        # 1. Which pairs leave enough room between the objects.
        offset = b.places[None] - a.places[:, None]
        apart = (offset.square().sum(-1) >= (a.obj.radius + b.obj.radius + MIN_GAP) ** 2).double()
        # 2. How likely training has a pair and its caption says so, by the offset between them.
        says = torch.tensor(
            [
                [
                    self._caption_prob(
                        a.obj, replace(b.obj, x=a.obj.x + dx, y=a.obj.y + dy), relation
                    )
                    for dx in range(1 - GRID, GRID)
                ]
                for dy in range(1 - GRID, GRID)
            ],
            dtype=torch.float64,
        )
        # 3. The first object stands anywhere, the second where there is room.
        free_b, free_a = (apart.sum(side, keepdim=True).clamp(min=1) for side in (1, 0))
        placed = apart / (len(a.places) * free_b) + apart / (len(b.places) * free_a)
        return placed * says[offset[..., 0] + GRID - 1, offset[..., 1] + GRID - 1]

    def _caption_prob(self, a: SceneObject, b: SceneObject, relation: str | None) -> float:
        """How likely training has this pair, and its caption says this relation, or none."""
        if held_out(Scene((a, b), self.background)):
            return 0.0
        clear = unambiguous_relation(a, b)
        return (
            RELATION_PROB * (clear == relation)
            if relation
            else 1 - RELATION_PROB * (clear is not None)
        )

    def __call__(self, x_t: Tensor, log_snr: float) -> Tensor:
        """The optimal x_0_hat, computed in float64.

        Args:
            x_t: noisy images, [b, 3, 64, 64].
            log_snr: their noise level.

        Returns:
            E[x_0 | x_t, caption], [b, 3, 64, 64].
        """
        alpha, sigma = alpha_sigma(torch.tensor(float(log_snr), dtype=torch.float64))
        rest = x_t.double().cpu() - alpha * self.plain
        scores = [[one.scores(rest, alpha, sigma) for one in sizes] for sizes in self.templates]
        return torch.stack(
            [self._mean([[score[n] for score in of] for of in scores]) for n in range(len(x_t))]
        ).to(x_t)

    def _mean(self, scores: list[list[Tensor]]) -> Tensor:
        """The expectation of one image, [3, 64, 64].

        `scores` holds g at the places of each object's templates, one list for each object.
        """
        # 1. The posterior of every pair of places, by the two sizes.
        logs = {
            (i, j): scores[0][i][:, None] + scores[1][j] + log_prior
            for (i, j), log_prior in self.log_prior.items()
        }
        highest = max(log.max() for log in logs.values())
        probs = {pair: (log - highest).exp() for pair, log in logs.items()}
        total = sum(c.sum() for c in probs.values())
        # 2. The background, and the mean of what each object adds.
        mean = self.plain.clone()
        for which in (0, 1):
            for pair, c in probs.items():
                mean += self.templates[which][pair[which]].expected(c.sum(1 - which) / total)
        return mean
