"""Where injected attention does not keep the layout of an edit: what does?

    python -m sample.edit_patching --n 12 --out outputs/edit_patching

Activation patching. The source's attention maps are injected in every step, as in the paper. Each
column of the table also takes one more activation from the source:

- nothing: the maps alone.
- queries: of attention to words, and then no cross-attention maps.
- self-attention values: with the maps, the whole output of self-attention.
- pooled text: the vector of the prompt that is added to all pixels.
- text layers: the words that both prompts have, before the network's own text layers.
- values: those of the words that both prompts have.
- new words' values: those of swapped words. This undoes a swap, and changes nothing if words are
  added.
- features: what residual blocks on one grid return: the convolutions, and with the up blocks the
  skip connections.

An edit is good if it shows the new prompt and keeps the layout. If more edits are good with an
activation from the source than without, that activation carried the layout past the maps. If fewer
show the new prompt, it carries what the edit should change as well. The counts are written to
edit_patching.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.editing.alignment import refinement_mapper
from imagen_mini.editing.base import BoundEdit, Edit, check_bindable
from imagen_mini.editing.prompt_to_prompt import AttentionInjection
from imagen_mini.evaluation.edit_benchmark import EditTask, edit_table, edit_tasks, evaluate_edits
from imagen_mini.evaluation.edit_comparison import injection_of
from imagen_mini.models.attention import TextContext
from imagen_mini.models.control import AttentionControl, AttentionSite, BlockSite
from imagen_mini.text.encoder import TextEmbeddings, Tokens
from imagen_mini.utils.scripts import check_output_folder, integer, run_script, script_parser
from sample.cli import add_model_options, load_pipeline

NOTHING = "nothing"
TEXT = POOLED, LAYERS, VALUES, NEW_VALUES = (
    "pooled text",
    "text layers",
    "values",
    "new words' values",
)
QUERIES, SELF_VALUES = "queries", "self-attention values"


def patches(grids: tuple[int, ...]) -> list[str]:
    """What is taken from the source beside its maps, for a network with these grids."""
    of_grids = [features(grid) for grid in sorted(set(grids))]
    return [NOTHING, QUERIES, SELF_VALUES, *TEXT, *of_grids]


def features(grid: int) -> str:
    """The name of the patch of the features on a grid."""
    return f"features at {grid} x {grid}"


@dataclass(frozen=True)
class PatchedInjection(AttentionControl):
    """The source's attention is injected into every other row of the batch; row i > 0 also takes
    `patches[i - 1]` from the source, row 0.

    Args:
        patches: What each row takes.
        injection: The control that injects attention.
        mapper: [source tokens, target tokens], of the words in common.
        prepare_text: What the network computes from text alone.
        prepared: The text of every row, once it is known.
    """

    changes_text = True

    patches: list[str]
    injection: AttentionControl
    mapper: Tensor
    prepare_text: Callable[[TextEmbeddings], TextContext]
    prepared: list[TextContext] = field(default_factory=list)

    def rows(self, patch: str) -> list[int]:
        """The rows of the batch that take this from the source."""
        return [1 + i for i, of in enumerate(self.patches) if of == patch]

    def modify_text(self, text: TextEmbeddings) -> TextContext:
        if not self.prepared:
            self.prepared.append(self.patched_text(text))
        return self.prepared[0]

    def patched_text(self, text: TextEmbeddings) -> TextContext:
        common = self.mapper.sum(0) > 0
        mean_of = (self.mapper / self.mapper.sum(0).clamp(min=1e-6)).to(text.emb)

        # 1. words in common as the source's prompt has them, before the text layers
        emb = text.emb.clone()
        for row in self.rows(LAYERS):
            emb[row, common] = (mean_of.T @ text.emb[0])[common]
        own = self.prepare_text(TextEmbeddings(emb, text.mask))

        # 2. the pooled vector, and the values of words; new words take those at their position
        pooled, kv = own.pooled.clone(), {}
        pooled[self.rows(POOLED)] = own.pooled[0].clone()
        for name, both in own.kv.items():
            both, half = both.clone(), both.shape[-1] // 2
            aligned = mean_of.T @ both[0]
            for row in self.rows(VALUES):
                both[row, common, half:] = aligned[common, half:]
            for row in self.rows(NEW_VALUES):
                both[row, ~common, half:] = both[0, ~common, half:]
            kv[name] = both
        return TextContext(own.emb, own.mask, pooled, kv)

    def modify_qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if site.kind == "self":
            return q, k, _from_source(v, self.rows(SELF_VALUES))
        return _from_source(q, self.rows(QUERIES)), k, v

    def needs_probs(self, site: AttentionSite) -> bool:
        return self.injection.needs_probs(site)

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        injected = self.injection.modify_probs(site, probs, n_text)
        if site.kind != "self" and (rows := self.rows(QUERIES)):
            injected = injected.clone()
            injected[rows] = probs[rows]
        return injected

    def needs_features(self, site: BlockSite) -> bool:
        return bool(self.rows(features(site.size)))

    def modify_features(self, site: BlockSite, x: Tensor) -> Tensor:
        return _from_source(x, self.rows(features(site.size)))


def _from_source(x: Tensor, rows: list[int]) -> Tensor:
    """x, with some rows replaced by row 0."""
    return torch.stack([x[0] if row in rows else x[row] for row in range(len(x))]) if rows else x


@dataclass(frozen=True)
class Patching(Edit):
    """The target once for each patch; source and target must have as many tokens where values are
    exchanged by position.
    """

    kind: type[AttentionInjection]
    patches: list[str]
    prepare_text: Callable[[TextEmbeddings], TextContext]

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundPatching:
        check_bindable(tokens, sites)
        injection = self.kind(1.0, 1.0).bind(tokens, sites, batch_tokens)
        mapper = torch.zeros(batch_tokens, batch_tokens)
        common = refinement_mapper(tokens[0], tokens[1])
        mapper[: common.shape[0], : common.shape[1]] = common
        control = injection.control_at(0.0)
        assert control is not None
        return BoundPatching(PatchedInjection(self.patches, control, mapper, self.prepare_text))


@dataclass(frozen=True)
class BoundPatching(BoundEdit):
    """The same control in every step."""

    control: PatchedInjection

    def control_at(self, done: float) -> AttentionControl:
        return self.control


def measure(pipe: ImagenPipeline, name: str, tasks: list[EditTask]) -> dict[str, dict]:
    """Edit every task with every patch.

    Args:
        pipe: The pipeline; its first stage is sampled.
        name: The kind of edit, a key of `edit_tasks`.
        tasks: The edits.

    Returns:
        A row of `edit_table` for each patch, and how many edits that fail without it are repaired
        ("repaired"), and how many that are good without it fail with it ("broken").
    """
    base = next(iter(pipe.stages))
    net = pipe.stages[base].net
    names = patches(net.config.grids)
    if not name.endswith("swap"):
        names.remove(NEW_VALUES)
    edit = Patching(injection_of(name), names, net.prepare_text)

    def generate(prompts: list[str], seed: int) -> Tensor:
        return pipe(
            [prompts[0], *[prompts[1]] * len(names)],
            seed=seed,
            stages=(base,),
            edit=edit,
            progress=False,
            output_type="pt",
        ).stages[base]

    scores = [
        of
        for _, _, of in tqdm(
            evaluate_edits(generate, tasks, pipe.world), total=len(tasks), desc=name
        )
    ]
    scores = [of for of in scores if of[0].counts]
    return {
        patch: edit_table([of[i] for of in scores])
        | {
            "repaired": sum(of[i].good and not of[0].good for of in scores),
            "broken": sum(of[0].good and not of[i].good for of in scores),
        }
        for i, patch in enumerate(names)
    }


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    kinds = tuple(edit_tasks(0))
    parser.add_argument(
        "--n", type=integer(low=1), default=12, help="edits of each kind (default: 12)"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=kinds, default=list(kinds), help="only these (default: all)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/edit_patching"), help="a folder")
    add_model_options(parser)
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    tasks = edit_tasks(args.n, world=pipe.world)
    report = {"pipeline": args.pipeline, "n": args.n, "kinds": {}}
    for name in args.kinds:
        rows = report["kinds"][name] = measure(pipe, name, tasks[name])
        asked = rows[NOTHING]["asked"]
        print(f"{name}: of {asked} edits, with the source's maps and")
        for patch, row in rows.items():
            good, shown = (round(row[key] * asked) for key in ("good", "success"))
            print(
                f"  {patch:24}{good:>3} good, {shown:>3} show the new prompt; "
                f"{row['repaired']} repaired, {row['broken']} broken"
            )
        (args.out / "edit_patching.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"{args.out}/edit_patching.json")


if __name__ == "__main__":
    run_script(main)
