"""Claims about where the structure of an image comes from: the seed, attention, or the early steps.
All are measured on the base stage, where Prompt-to-Prompt acts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.sampling import sampling_loop
from imagen_mini.cascade.sampling_options import resolve_sampling_options
from imagen_mini.editing.base import Edit
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import (
    DEFAULT_SELF_STEPS,
    AttentionInjection,
    Replace,
)
from imagen_mini.evaluation.edit_benchmark import (
    TOLERANCE,
    EditTask,
    evaluate_edits,
    score_edit,
    swaps,
)
from imagen_mini.evaluation.edit_comparison import (
    ATTENTION,
    BOTH,
    METHODS,
    SAME_SEED,
    SWITCHING,
    edit_methods,
)
from imagen_mini.viz.guidance import plot_accuracy
from imagen_mini.viz.style import STYLES, percent_axis, save_figure, subplots
from sample.claims.claim import (
    HOLDS,
    UNCLEAR,
    Claim,
    Experiment,
    Verdict,
    all_of,
    bars,
    beats,
    gain_line,
    is_most,
    percent,
    tally,
)
from sample.claims.guidance import BATCH, base_of, evenly_spaced, example_grid

SHOWN = 5  # examples in the image


def all_swaps(n: int) -> list[EditTask]:
    """Return n swaps of a colour and n of a shape."""
    return [swap for attribute in ("color", "shape") for swap in swaps(attribute, n)]


# ---------------------------------------------------------------- fixed seed and fixed attention

SWITCHING_SHARE = PromptSwitching().until[1]
TOLERANCES = range(9)  # how far an object may have moved, in 1/64 of the width
# The verdict on the seed must be the same at all of these. A small object has a radius of 6.5.
JUDGED = (2, TOLERANCE, 6)


def measure_fixed(pipe: ImagenPipeline, n: int) -> tuple[dict, Image.Image]:
    """Edit each word swap by every method from one seed, and check the source's layout.

    Only swaps whose source image is correct count.
    """
    base, todo = base_of(pipe), all_swaps(n)

    def generate(prompts: list[str], seed: int, edit: Edit | None = None) -> Tensor:
        return pipe(
            prompts, seed=seed, stages=(base,), edit=edit, output_type="pt", progress=False
        ).stages[base]

    def generate_all(prompts: list[str], seed: int) -> Tensor:
        """Generate the source, and the target by each of METHODS."""
        edits = edit_methods(Replace).items()
        pairs = {name: generate(prompts, seed, edit) for name, edit in edits}
        return torch.cat([pairs[SAME_SEED][:1], *(pair[1:] for pair in pairs.values())])

    examples, scores = evenly_spaced(todo, SHOWN), []
    shown: list[tuple[Tensor, bool, str]] = []
    for swap, images, of in tqdm(
        evaluate_edits(generate_all, todo, pipe.world), total=len(todo), desc="fixed attention"
    ):
        if of[0].counts:
            scores.append(of)
        if swap in examples:
            labels = [swap.source.text, *(f"{name}: {swap.target.text}" for name in METHODS)]
            shown += zip(images.float().cpu(), [of[0].source_right, *(s.good for s in of)], labels)
    columns = {name: [of[i] for of in scores] for i, name in enumerate(METHODS)}
    found = {
        "swaps": len(todo),
        "source_right": len(scores),
        "layout": {name: tally([s.layout for s in of]) for name, of in columns.items()},
        "success": {name: tally([s.success for s in of]) for name, of in columns.items()},
        "layout_within": {
            name: [tally([s.moved <= most for s in of]) for most in TOLERANCES]
            for name, of in columns.items()
        },
    }
    return found, example_grid(shown, columns=1 + len(METHODS))


def counts_line(numbers: dict, name: str) -> str:
    """Describe in words how a method kept layouts and showed new prompts."""
    layout, success = numbers["layout"][name], numbers["success"][name]
    return (
        f"{percent(layout)} ({layout['low']:.0%} to {layout['high']:.0%}) keep the layout, "
        f"{percent(success)} show the new prompt"
    )


def judge_seed(numbers: dict) -> Verdict:
    """Judge the seed alone: the claim holds if layouts are kept less often than not.

    What counts as kept depends on how far an object may have moved, so the outcome must be the same
    at each of JUDGED.
    """
    rows = numbers["layout_within"][SAME_SEED]
    outcomes = {
        is_most({**rows[most], "low": 1 - rows[most]["high"], "high": 1 - rows[most]["low"]})
        for most in JUDGED
    }
    within = ", ".join(f"{most}/64: {percent(rows[most])}" for most in TOLERANCES)
    return Verdict(
        outcomes.pop() if len(outcomes) == 1 else UNCLEAR,
        f"With the same seed and a new prompt, of {numbers['source_right']} correct sources "
        f"{counts_line(numbers, SAME_SEED)}. Kept by how far an object may have moved: {within}.",
    )


def judge_attention(numbers: dict) -> Verdict:
    """Judge injected attention: it keeps more than the seed alone, and more often than not.

    Prompt switching, which the paper does not have, is reported beside it and not judged.
    """
    layout = numbers["layout"]
    return Verdict(
        all_of(beats(layout[SAME_SEED], layout[ATTENTION]), is_most(layout[ATTENTION])),
        f"With the source's attention injected (`Replace()`), of {numbers['source_right']} correct "
        f"sources {counts_line(numbers, ATTENTION)}; against the seed alone "
        f"{gain_line(layout[SAME_SEED], layout[ATTENTION])}. The control that a critical reader "
        f"asks for, the source's prompt in the first {SWITCHING_SHARE:.0%} of the steps and no "
        f"injection: {counts_line(numbers, SWITCHING)}; attention against it "
        f"{gain_line(layout[SWITCHING], layout[ATTENTION])}. Both: "
        f"{counts_line(numbers, BOTH)}.",
    )


def plot_fixed(numbers: dict, path: Path) -> None:
    fig, axes = subplots(
        [
            f"layout kept, share of {numbers['source_right']}",
            "new prompt shown",
            "layout kept, by tolerance",
        ],
        "",
    )
    for ax, rows in zip(axes, (numbers["layout"], numbers["success"])):
        bars(ax, rows)
    for (name, rows), style in zip(numbers["layout_within"].items(), STYLES):
        plot_accuracy(axes[2], list(TOLERANCES), rows, name, style)
    axes[2].set_xlabel("moved by at most, in 1/64")
    percent_axis(axes[2])
    save_figure(fig, path)


FIXED_ATTENTION = Experiment(
    "fixed-attention",
    "n swaps of a colour and n of a shape, in captions of one and of two objects, by the base "
    "stage. The layout is kept if every object is where it was and all objects but the edited one "
    f"are unchanged. An object is where it was if it moved by at most {TOLERANCE}/64 of the width; "
    "the verdict on the seed must also be the same at "
    f"{JUDGED[0]}/64 and {JUDGED[-1]}/64. Kept means more often than not. Attention: "
    f"cross-attention in the first {AttentionInjection.cross_replace_steps:.0%} of the steps, "
    f"self-attention (on grids up to 16 x 16) in the first {DEFAULT_SELF_STEPS:.0%}. Prompt "
    f"switching: the source's prompt in the first {SWITCHING_SHARE:.0%} of the steps, the target's "
    "in the rest.",
    30,
    (
        Claim(
            "A fixed seed alone does not keep the structure.",
            "Prompt-to-Prompt (Hertz et al., 2022)",
            judge_seed,
        ),
        Claim(
            "A fixed seed with fixed attention keeps the structure.",
            "Prompt-to-Prompt (Hertz et al., 2022), Algorithm 1",
            judge_attention,
        ),
    ),
    measure_fixed,
    plot_fixed,
)


# ---------------------------------------------------------------- early steps

EIGHTHS = range(9)  # of the steps, after which the prompt changes


def sample_with_switched_prompt(
    pipe: ImagenPipeline, first: list[str], then: list[str], seeds: list[int], steps: int
) -> Tensor:
    """Generate images with the base stage, switching prompts on the way.

    Args:
        pipe: The pipeline.
        first: Prompts of the first `steps` steps.
        then: Prompts of the other steps.
        seeds: One seed for each image.
        steps: Number of steps with the first prompts.

    Returns:
        [b, 3, size, size] in [-1, 1], on the CPU.
    """
    stage = pipe.stages[base_of(pipe)]
    options = resolve_sampling_options(stage)
    times = stage.timesteps(options.num_inference_steps, options.timestep_spacing)
    early, late = (stage.denoiser(pipe.text_encoder(prompts)) for prompts in (first, then))

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return late(x_t, t) if t <= times[steps] else early(x_t, t)

    *_, last = sampling_loop(stage, denoise, seeds, options)
    return last.x_0_hat.clamp(-1, 1).float().cpu()


def measure_early(pipe: ImagenPipeline, n: int) -> tuple[dict, Image.Image]:
    """Switch prompts after each eighth of the steps, and compare layouts.

    Does the image have the layout of the first prompt's image, or of the second's?
    """
    # 1. Generate all images.
    stage, todo = pipe.stages[base_of(pipe)], all_swaps(n)
    total = stage.config.num_inference_steps
    counts = sorted({round(eighth * total / 8) for eighth in EIGHTHS})
    batches: dict[int, list[Tensor]] = {steps: [] for steps in counts}
    with tqdm(total=len(counts) * len(todo), desc="early steps") as bar:
        for at in range(0, len(todo), BATCH):
            part = todo[at : at + BATCH]
            for steps in counts:
                batches[steps].append(
                    sample_with_switched_prompt(
                        pipe,
                        [s.source.text for s in part],
                        [s.target.text for s in part],
                        [s.seed for s in part],
                        steps,
                    )
                )
                bar.update(len(part))
    generated = {steps: torch.cat(parts) for steps, parts in batches.items()}
    # 2. Keep swaps whose two unswitched images are correct.
    parsed_scenes = {
        steps: [parsed for part in images.split(64) for parsed in pipe.world.parse_image(part)]
        for steps, images in generated.items()
    }
    of_first, of_second = parsed_scenes[total], parsed_scenes[0]
    kept = [
        i
        for i, s in enumerate(todo)
        if s.source.description.fits(of_first[i].scene)
        and s.target.description.fits(of_second[i].scene)
    ]
    # 3. Compare each switched image with both.
    found = {"swaps": len(todo), "both_right": len(kept), "steps": total, "rows": []}
    for steps in counts:
        towards = [score_edit(todo[i], of_first[i], parsed_scenes[steps][i]) for i in kept]
        back = [score_edit(reverse(todo[i]), of_second[i], parsed_scenes[steps][i]) for i in kept]
        log_snr = stage.schedule(stage.timesteps()[steps].double()).clamp(-20, 20).item()
        found["rows"].append(
            {
                "steps": steps,
                "log_snr": round(log_snr, 2),
                "first_layout": tally([s.layout for s in towards]),
                "second_layout": tally([s.layout for s in back]),
                "second_word": tally([s.success for s in towards]),
            }
        )
    examples = [
        (
            generated[steps][i],
            None,
            f"{steps} of {total}: {(todo[i].source if steps == total else todo[i].target).text}",
        )
        for i in evenly_spaced(kept or [0], SHOWN)
        for steps in reversed(counts)
    ]
    return found, example_grid(examples, columns=len(counts), cell=96)


def reverse(swap: EditTask) -> EditTask:
    """Exchange source and target."""
    return replace(swap, source=swap.target, target=swap.source)


def judge_early(numbers: dict) -> Verdict:
    """Judge the switch after half of the steps: whose layout does the image have?"""
    rows = numbers["rows"]
    half = min(rows, key=lambda row: abs(row["steps"] - numbers["steps"] / 2))
    decided = next((row for row in rows if is_most(row["first_layout"]) == HOLDS), None)
    if decided is None:
        when = "after no switch the first layout is surely kept in more than half"
    else:
        when = (
            f"after {decided['steps']} steps (log-SNR {decided['log_snr']:g}) it surely is the "
            "first one's in more than half, and "
            f"{percent(decided['second_word'])} still show the second prompt"
        )
    return Verdict(
        beats(half["second_layout"], half["first_layout"]),
        f"Switched after {half['steps']} of {numbers['steps']} steps, "
        f"{percent(half['first_layout'])} have the first prompt's layout and "
        f"{percent(half['second_layout'])} the second's, of {numbers['both_right']}: "
        f"{gain_line(half['second_layout'], half['first_layout'])}; "
        f"{percent(half['second_word'])} show the second prompt. "
        f"{when[0].upper()}{when[1:]}.",
    )


def plot_early(numbers: dict, path: Path) -> None:
    rows = numbers["rows"]
    fig, (ax,) = subplots(
        [f"share of {numbers['both_right']} swaps"],
        "steps with the first prompt, before the second",
    )
    names = {
        "first_layout": "layout of the first prompt's image",
        "second_layout": "layout of the second's",
        "second_word": "the second prompt is shown",
    }
    for (key, name), style in zip(names.items(), STYLES):
        plot_accuracy(ax, [row["steps"] for row in rows], [row[key] for row in rows], name, style)
    log_snr = ax.secondary_xaxis("top")
    log_snr.set_xticks(
        [row["steps"] for row in rows], [f"{row['log_snr']:.0f}" for row in rows], fontsize=7
    )
    log_snr.set_xlabel("log-SNR there", fontsize=8)
    percent_axis(ax)
    fig.set_size_inches(10, 4.6)
    save_figure(fig, path)


EARLY_STEPS = Experiment(
    "early-steps",
    "n swaps of a colour and n of a shape. The base stage uses the first prompt in the "
    "first steps and the second one in the rest, from one noise; of "
    "swaps whose two images, each generated from one prompt alone, are correct.",
    30,
    (
        Claim(
            "Structure is decided in the early steps.",
            "Prompt-to-Prompt (Hertz et al., 2022)",
            judge_early,
        ),
    ),
    measure_early,
    plot_early,
)
