"""Which path carries a word to the image: its attention maps, its values or the pooled prompt?

    python -m sample.activation_patching --n 40 --out outputs/paths

Two prompts differ in a single word, a colour or a shape. Images of the one prompt are sampled, and
in every step some activations are replaced by those of the other prompt:

- maps: the attention probabilities, that is where each word is attended to.
- values: the values, that is what a pixel receives from the words that it attends to.
- pooled: the pooled vector of the prompt, which is added to all pixels.
- maps + values, and the other pairs.

How often does the image then show the other prompt? The counts are written to paths.json.

Prompt-to-Prompt takes the maps from the source
and everything else from the target. So it needs that a word acts through its values, and that the
pooled vector does not undo it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.editing.alignment import replacement_mapper
from imagen_mini.editing.base import BoundEdit, Edit
from imagen_mini.evaluation.edit_benchmark import SWAPPED, swaps
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.models.attention import TextContext
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import TextEmbeddings, Tokens
from imagen_mini.utils.scripts import check_output_folder, integer, run_script, script_parser
from sample.cli import add_model_options, load_pipeline

PARTS = ("maps", "values", "pooled")
MIXES = [frozenset(parts) for n in (1, 2) for parts in combinations(PARTS, n)]


@dataclass(frozen=True)
class Mixed(AttentionControl):
    """Row 0 of the batch is the prompt, row 1 the other prompt, and row 2 + i the prompt with the
    activations `mixes[i]` of the other.
    """

    changes_text = True

    mixes: list[frozenset]
    prepare_text: Callable[[TextEmbeddings], TextContext]
    mapper: Tensor  # [tokens of the other prompt, tokens of the prompt]

    def rows(self, part: str) -> list[int]:
        """The rows of the batch that take this part from the other prompt."""
        return [2 + i for i, parts in enumerate(self.mixes) if part in parts]

    def modify_text(self, text: TextEmbeddings) -> TextContext:
        prepared = self.prepare_text(text)
        pooled = prepared.pooled.clone()
        pooled[self.rows("pooled")] = prepared.pooled[1]
        return TextContext(prepared.emb, prepared.mask, pooled, prepared.kv)

    def modify_qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if site.kind != "self":
            v = v.clone()
            n = len(self.mapper)
            # A token takes the value of its counterpart, or the mean of several.
            mean_of = (self.mapper / self.mapper.sum(0).clamp(min=1e-6)).to(v)
            v[self.rows("values"), :, :n] = torch.einsum("st,hsd->htd", mean_of, v[1, :, :n])
        return q, k, v

    def needs_probs(self, site: AttentionSite) -> bool:
        return site.kind != "self" and bool(self.rows("maps"))

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        probs = probs.clone()
        probs[self.rows("maps"), :, :, :n_text] = torch.einsum(
            "hps,st->hpt", probs[1, :, :, :n_text], self.mapper.to(probs)
        )
        return probs


@dataclass(frozen=True)
class Mix(Edit):
    """The prompts are the prompt, the other prompt, and a copy of the prompt for each mix."""

    mixes: list[frozenset]
    prepare_text: Callable[[TextEmbeddings], TextContext]

    def bind(self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int) -> BoundMix:
        mapper = replacement_mapper(tokens[1], tokens[0])
        padded = torch.zeros(batch_tokens, batch_tokens)
        padded[: mapper.shape[0], : mapper.shape[1]] = mapper
        return BoundMix(Mixed(self.mixes, self.prepare_text, padded))


@dataclass(frozen=True)
class BoundMix(BoundEdit):
    """The same control in every step."""

    control: AttentionControl

    def control_at(self, done: float) -> AttentionControl:
        return self.control


def measure(pipe: ImagenPipeline, attribute: str, n: int) -> dict:
    """Count how often images with activations of the other prompt show either prompt.

    Only swaps whose two prompts both return correct images are counted.

    Args:
        pipe: The pipeline; its first stage is sampled.
        attribute: The attribute that is swapped, "color" or "shape".
        n: Number of swaps.

    Returns:
        The number of swaps and of counted ones. For each mix the number of images that show the
        other prompt and that show their own, and the 95 % interval of the first one's rate.
    """
    base = next(iter(pipe.stages))
    counts = {mix: [0, 0] for mix in MIXES}
    both_correct = 0
    for task in tqdm(swaps(attribute, n), desc=f"{attribute} swaps"):
        prompts = [task.source.text, task.target.text] + [task.source.text] * len(MIXES)
        images = pipe(
            prompts,
            seed=task.seed,
            stages=(base,),
            edit=Mix(MIXES, pipe.stages[base].net.prepare_text),
            progress=False,
            output_type="pt",
        ).stages[base]
        own, other, *mixed = [
            parsed.scene for parsed in pipe.world.parse_image(images.float().cpu())
        ]
        if not (task.source.description.fits(own) and task.target.description.fits(other)):
            continue
        both_correct += 1
        for mix, scene in zip(MIXES, mixed):
            counts[mix][0] += task.target.description.fits(scene)
            counts[mix][1] += task.source.description.fits(scene)
    return {
        "n": n,
        "both_right": both_correct,
        "ways": {
            " + ".join(p for p in PARTS if p in mix): {
                "other": other,
                "own": own,
                **dict(
                    zip(
                        ("low", "high"),
                        (round(v, 4) for v in wilson_interval(other, both_correct)),
                    )
                ),
            }
            for mix, (other, own) in counts.items()
        },
    }


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--n", type=integer(low=1), default=40, help="word swaps of each kind (default: 40)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/paths"), help="a folder")
    add_model_options(parser)
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    report = {
        "pipeline": args.pipeline,
        **{attribute: measure(pipe, attribute, args.n) for attribute in SWAPPED},
    }
    (args.out / "paths.json").write_text(json.dumps(report, indent=1) + "\n")
    for attribute in SWAPPED:
        of = report[attribute]["both_right"]
        print(
            f"{attribute}: of {of} swaps whose images are both correct; with these activations of "
            "the other prompt:"
        )
        for name, row in report[attribute]["ways"].items():
            share = row["other"] / max(1, of)
            print(
                f"  {name:18}shows the other {share:>5.0%} ({row['low']:.0%} - "
                f"{row['high']:.0%}), still its own {row['own'] / max(1, of):>5.0%}"
            )
    print(f"{args.out}/paths.json")


if __name__ == "__main__":
    run_script(main)
