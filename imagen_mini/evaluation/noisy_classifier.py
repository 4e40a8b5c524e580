"""A classifier of noisy images: what is in a scene, read from x_t at any noise level.

Classifier guidance asks for d log p(y | x_t) / d x_t, so the classifier has to have seen x_t, and
to know how noisy it is. `train.noisy_classifier` trains one. It is not shipped:

    net = load_noisy_classifier("outputs/noisy.safetensors")
    log_p = net.log_probability(["two red circles", "a star above a ring"])
    denoise = guide_by_classifier(stage.denoiser(text), log_p, 3.0, stage.schedule)

Reference: Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), arXiv
2105.05233, Section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imagen_mini.models.layers import ScalarEmbedding
from imagen_mini.scenes.captions import Description
from imagen_mini.scenes.scene import COLORS, MAX_OBJECTS, SHAPES, Scene, relation
from imagen_mini.scenes.world import SCENES, World, find_world

# Beyond these there is nothing to read, or no noise: log-SNRs are clamped to them.
LOWEST, HIGHEST = -10.0, 10.0
CHANNELS = (32, 64, 96)
EMBEDDING = 128


def noisy_labels() -> dict[str, list]:
    """Return what is asked of a scene, by kind.

    Returns:
        "count": numbers of objects. "colors" and "shapes": whether one occurs. "pairs": (colour,
        shape). "relations": (shape, "left of" or "above", shape), of any two objects.
    """
    return {
        "count": list(range(1, MAX_OBJECTS + 1)),
        "colors": list(COLORS),
        "shapes": list(SHAPES),
        "pairs": [(c, s) for c in COLORS for s in SHAPES],
        "relations": [(a, r, b) for a in SHAPES for r in ("left of", "above") for b in SHAPES],
    }


# (a, relation, b) as `noisy_labels` says it
TURNED = {"right of": "left of", "below": "above"}


def _relation_label(a: str, between: str, b: str) -> tuple[str, str, str]:
    return (b, TURNED[between], a) if between in TURNED else (a, between, b)


def facts_of_scene(scene: Scene) -> Tensor:
    """Return what holds in a scene, as zeros and ones, in the order of `noisy_labels`.

    Args:
        scene: Any scene of 1 to 5 objects.
    """
    objects = scene.objects
    relations = {
        _relation_label(a.shape, between, b.shape)
        for i, a in enumerate(objects)
        for b in objects[i + 1 :]
        if (between := relation(a, b)) is not None
    }
    found: dict[str, set] = {
        "count": {len(objects)},
        "colors": {o.color for o in objects},
        "shapes": {o.shape for o in objects},
        "pairs": {(o.color, o.shape) for o in objects},
        "relations": relations,
    }
    known = noisy_labels()
    return torch.tensor([float(value in found[kind]) for kind in known for value in known[kind]])


def facts_of_description(description: Description) -> tuple[Tensor, Tensor]:
    """Return what a caption states of the labels, and which of them it speaks of.

    It speaks of the number of objects; of every shape and, where all colours are said, of every
    colour and pair: those that it does not name do not occur. It speaks of one relation at most.

    Args:
        description: What the caption states.

    Returns:
        The labels that hold, and those that are stated, each [n] of 0 and 1.
    """
    objects = description.objects
    colored = all(o.color is not None for o in objects)
    found: dict[str, set] = {
        "count": {len(objects)},
        "colors": {o.color for o in objects},
        "shapes": {o.shape for o in objects},
        "pairs": {(o.color, o.shape) for o in objects},
        "relations": set(),
    }
    if description.relation is not None:
        a, b = objects
        found["relations"] = {_relation_label(a.shape, description.relation, b.shape)}
    whole = {"count", "shapes"} | ({"colors", "pairs"} if colored else set())
    holds, stated = [], []
    for kind, values in noisy_labels().items():
        for value in values:
            holds.append(float(value in found[kind]))
            stated.append(float(kind in whole or value in found[kind]))
    return torch.tensor(holds), torch.tensor(stated)


class NoisyClassifier(nn.Module):
    """(x_t [b, 3, size, size], log-SNR [b]) -> logits of the labels, [b, n].

    A small convolutional network; the noise level scales and shifts its features.

    Args:
        size: Width of the images, a multiple of 32 (default: 64).
        world: The world of the images (default: `scenes`).

    Raises:
        ValueError: for another size.
    """

    def __init__(self, size: int = 64, world: World = SCENES):
        super().__init__()
        if size % 32:
            raise ValueError(f"size {size}: expected a multiple of 32")
        self.size, self.world, self.patch = size, world, size // 32
        self.noise_level = ScalarEmbedding(EMBEDDING, shortest=1.0, longest=60.0)
        # two more channels hold each pixel's coordinates
        self.stem = nn.Conv2d(3 * self.patch**2 + 2, CHANNELS[0], 3, padding=1)
        shapes = [
            (CHANNELS[0], CHANNELS[0], 1),
            (CHANNELS[0], CHANNELS[1], 2),
            (CHANNELS[1], CHANNELS[1], 1),
            (CHANNELS[1], CHANNELS[2], 2),
            (CHANNELS[2], CHANNELS[2], 1),
            (CHANNELS[2], CHANNELS[2], 1),
        ]
        self.norms = nn.ModuleList(nn.GroupNorm(8, a) for a, _, _ in shapes)
        self.levels = nn.ModuleList(nn.Linear(EMBEDDING, 2 * a) for a, _, _ in shapes)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=stride, padding=1) for a, b, stride in shapes
        )
        self.hidden = nn.Linear(2 * CHANNELS[-1], 2 * CHANNELS[-1])
        self.to_facts = nn.Linear(2 * CHANNELS[-1], sum(map(len, noisy_labels().values())))

    def forward(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """Return the logits.

        Args:
            x_t: Noisy images, [b, 3, size, size].
            log_snr: Their noise levels, [b].

        Raises:
            ValueError: for images of another size.
        """
        if x_t.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"this classifier takes images [b, 3, {self.size}, {self.size}]; got "
                f"{list(x_t.shape)}"
            )
        # 1. The noise level.
        emb = F.silu(self.noise_level(log_snr.clamp(LOWEST, HIGHEST)))
        # 2. Patches, with their places.
        x = F.pixel_unshuffle(x_t, self.patch)
        place = torch.linspace(-1, 1, 32, device=x.device, dtype=x.dtype)
        where = torch.stack(torch.meshgrid(place, place, indexing="ij")).expand(len(x), -1, -1, -1)
        x = self.stem(torch.cat([x, where], dim=1))
        # 3. Convolutions; the noise level scales and shifts what goes into each.
        for norm, level, conv in zip(self.norms, self.levels, self.convs):
            scale, shift = level(emb)[:, :, None, None].chunk(2, dim=1)
            new = conv(F.silu(norm(x) * (1 + scale) + shift))
            x = x + new if new.shape == x.shape else new
        # 4. What holds anywhere in the image.
        x = F.silu(x)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return self.to_facts(F.silu(self.hidden(pooled)))

    def log_probability(self, captions: Sequence[str]) -> Callable[[Tensor, Tensor], Tensor]:
        """Return log p(caption | x_t) as a function, for `guide_by_classifier`.

            log p = sum over what is stated of log sigmoid(+- logit)

        as if the labels were independent given x_t. The number of objects is one choice out of
        five, by a softmax.

        Args:
            captions: One for each image.

        Returns:
            (x_t [b, 3, size, size], log_snr [b]) -> [b].

        Raises:
            ValueError: a caption is not of the world's grammar.
        """
        facts = [facts_of_description(self.world.parse_caption(c)) for c in captions]
        holds, stated = (torch.stack(x) for x in zip(*facts))
        counts = MAX_OBJECTS

        def log_p(x_t: Tensor, log_snr: Tensor) -> Tensor:
            dtype = self.hidden.weight.dtype
            logits = self(x_t.to(dtype), log_snr.to(dtype))
            there, said = holds.to(logits), stated.to(logits)
            number = (logits[:, :counts].log_softmax(1) * there[:, :counts]).sum(1)
            signs = 2 * there[:, counts:] - 1
            return number + (F.logsigmoid(signs * logits[:, counts:]) * said[:, counts:]).sum(1)

        return log_p


def classification_loss(logits: Tensor, facts: Tensor) -> Tensor:
    """Return the mean negative log-probability of true labels, as `log_probability` counts it.

    Args:
        logits: [b, n].
        facts: [b, n] of 0 and 1.
    """
    number = F.cross_entropy(logits[:, :MAX_OBJECTS], facts[:, :MAX_OBJECTS])
    rest = F.binary_cross_entropy_with_logits(
        logits[:, MAX_OBJECTS:], facts[:, MAX_OBJECTS:], reduction="none"
    )
    return number + rest.sum(1).mean()


def save_noisy_classifier(net: NoisyClassifier, path: Path) -> None:
    """Save a classifier as safetensors, with its size and its world."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    save_file(weights, path, {"size": str(net.size), "world": net.world.name})
    path.chmod(0o644)


def load_noisy_classifier(path: str | Path) -> NoisyClassifier:
    """Load a classifier, frozen.

    Args:
        path: A file that `train.noisy_classifier` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no classifier of noisy images.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no classifier {path}; train one with python -m train.noisy_classifier --out {path}"
        )
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        net = NoisyClassifier(int(about["size"]), find_world(about["world"]))
        net.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} is no classifier of noisy images, as train.noisy_classifier writes it: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return net.eval().requires_grad_(False)
