"""Edit a picture by its prompt, with Prompt-to-Prompt.

    python -m sample.edit replace "a red circle above a blue square" "a red star above a blue square" --out edit.png

Source and edit stand side by side, with what the parser reads in each; "same seed, new prompt" beside them shows what the attention
maps are for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imagen_mini.pictures import labelled_grid
from imagen_mini.prompt_to_prompt import Replace

from .generate import judge
from .options import add_pipeline_options, load_pipeline, sampling_options


def window(text: str) -> float | tuple[float, float]:
    """'0.8' or '0.1,0.8': a share of the steps."""
    values = tuple(float(v) for v in text.split(","))
    return values[0] if len(values) == 1 else values


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    replace = kinds.add_parser("replace", help="swap words, one for one", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    replace.add_argument("source", help="the caption of the picture")
    replace.add_argument("target", help="the same caption with one or more words swapped")
    replace.add_argument("--cross-steps", type=window, default=Replace.cross_steps, help="share of the steps in which the source's cross-attention is used")
    replace.add_argument("--self-steps", type=window, default=Replace.self_steps, help="share of the steps in which the source's self-attention is used")
    replace.add_argument("--source-steps", type=window, default=Replace.source_steps, help="share of the steps in which the source's whole prompt is read")
    replace.add_argument("--seed", type=int, default=0)
    replace.add_argument("--out", type=Path, default=Path("edit.png"), help="the picture to write")
    add_pipeline_options(replace)
    args = parser.parse_args(arguments)

    pipe = load_pipeline(args)
    prompts, options = [args.source, args.target], sampling_options(args)
    out = pipe(prompts, seed=args.seed, edit=Replace(args.cross_steps, args.self_steps, source_steps=args.source_steps), **options)
    plain = pipe(args.target, seed=args.seed, **options)
    source, edit = out.stages[list(out.stages)[-1]]
    baseline = plain.stages[list(plain.stages)[-1]][0]
    rows = [("source", args.source, source), ("edit", args.target, edit), ("same seed, new prompt", args.target, baseline)]
    for name, prompt, image in rows:
        print(f"{name}: {prompt!r}: {judge(prompt, image)}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    labelled_grid([image for _, _, image in rows], [f"{name}: {prompt}" for name, prompt, _ in rows], columns=3, cell=256).save(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
