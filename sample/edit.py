"""Edit a picture by its prompt, with Prompt-to-Prompt.

    python -m sample.edit replace "a red circle above a blue square" "a red star above a blue square" --out edit.png
    python -m sample.edit refine "a red circle" "a red circle on a black background" --out edit.png
    python -m sample.edit reweight "a small red circle" --word small --scale -1 0 1 2 --out edit.png

Source and edit stand side by side, with what the parser reads in each; "same seed, new prompt" beside them shows what the attention
maps are for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imagen_mini.pictures import labelled_grid
from imagen_mini.prompt_to_prompt import Edit, Injection, Refine, Replace, Reweight

from .generate import judge
from .options import add_pipeline_options, load_pipeline, sampling_options


def window(text: str) -> float | tuple[float, float]:
    """'0.8' or '0.1,0.8': a share of the steps."""
    values = tuple(float(v) for v in text.split(","))
    return values[0] if len(values) == 1 else values


def add_kind(kinds, name: str, about: str, target: str) -> argparse.ArgumentParser:
    """A subcommand that takes a source and a target."""
    parser = kinds.add_parser(name, help=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("source", help="the caption of the picture")
    parser.add_argument("target", help=target)
    parser.add_argument("--cross-steps", type=window, default=Injection.cross_steps, help="share of the steps in which the source's cross-attention is used")
    parser.add_argument("--self-steps", type=window, default=Injection.self_steps, help="share of the steps in which the source's self-attention is used")
    parser.add_argument("--source-steps", type=window, default=Injection.source_steps, help="share of the steps in which the source's whole prompt is read")
    return parser


def what_to_draw(args: argparse.Namespace) -> tuple[list[str], Edit, list[str], bool]:
    """Prompts, the first the source; the edit; a name for each target; whether a plain picture of the target is worth showing."""
    if args.kind == "reweight":
        return ([args.prompt] * (1 + len(args.scale)), Reweight({args.word: args.scale}, args.weight_steps), [f"{args.word} x {c:g}" for c in args.scale], False)
    kind = Replace if args.kind == "replace" else Refine
    return [args.source, args.target], kind(args.cross_steps, args.self_steps, source_steps=args.source_steps), ["edit"], True


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    reweight = kinds.add_parser("reweight", help="let a word count more, less, or against", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    reweight.add_argument("prompt", help="the caption of the picture")
    reweight.add_argument("--word", required=True, help="the word")
    reweight.add_argument("--scale", type=float, nargs="+", default=[-1.0, 0.0, 2.0], help="its attention is multiplied by this, from -2 to 2; a picture for each")
    reweight.add_argument("--weight-steps", type=window, default=Reweight.steps, help="share of the steps in which it is")
    for kind in (add_kind(kinds, "replace", "swap words, one for one", "the same caption with one or more words swapped"),
                 add_kind(kinds, "refine", "add or remove words", "the same caption with words added, removed or swapped"), reweight):
        kind.add_argument("--seed", type=int, default=0)
        kind.add_argument("--out", type=Path, default=Path("edit.png"), help="the picture to write")
        add_pipeline_options(kind)
    args = parser.parse_args(arguments)

    pipe, options = load_pipeline(args), sampling_options(args)
    prompts, edit, names, compare = what_to_draw(args)
    out = pipe(prompts, seed=args.seed, edit=edit, **options)
    pictures = out.stages[list(out.stages)[-1]]
    rows = list(zip(["source", *names], prompts, pictures))
    if compare:
        plain = pipe(prompts[1], seed=args.seed, **options)
        rows.append(("same seed, new prompt", prompts[1], plain.stages[list(plain.stages)[-1]][0]))
    for name, prompt, image in rows:
        print(f"{name}: {prompt!r}: {judge(prompt, image)}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    labelled_grid([image for _, _, image in rows], [f"{name}: {prompt}" for name, prompt, _ in rows], columns=min(5, len(rows)), cell=256).save(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
