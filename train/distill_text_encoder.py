"""Teach a text encoder, by text alone, what other words mean: rare, misspelt, negated.

    python -m train.distill_text_encoder --out runs/text_encoder_distilled
    python -m train.probe_text_encoder runs/text_encoder_distilled

A network understands the vectors of the words of captions. So the student is taught to give every
restatement of a caption the vectors that the teacher, the encoder of the network, gives the caption
itself: "an emerald disc" those of "a green circle", "a star and no ring" those of "a star". No
image is needed, and the network is left as it is.

Reference: Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation (Reimers
    and Gurevych, 2020), arXiv 2004.09813, Section 2, where the restatements are translations and a
    sentence has one vector.
"""

from __future__ import annotations

import random
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from imagen_mini.scenes.prose.restatements import (
    WORDINGS,
    Part,
    Wording,
    random_wording,
    restate,
    said_and_plain,
)
from imagen_mini.scenes.world import WORLDS
from imagen_mini.text.encoder import TextEncoder, Tokens
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.scripts import (
    FIGURES,
    check_output_file,
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.style import STYLES, save_figure, subplots
from train.text_encoder import save_history
from train.text_encoder_loop import fit

PARTS = 4  # of a batch: restatements of like length go through the network together
HELD_OUT = 256  # restatements of each kind on which the loss is measured


def random_restatement(rng: random.Random, wording: Wording | None = None) -> list[Part]:
    """A random caption of a built-in world in other words.

    Args:
        rng: Source of randomness.
        wording: What is put in other words (default: one of `WORDINGS`, by its share).
    """
    world, index = WORLDS[rng.choice(tuple(WORLDS))], rng.getrandbits(40)
    caption = world.training_caption(world.training_scene(0, index), 0, index)
    return restate(caption, wording or random_wording(rng), rng)


# ---------------------------------------------------------------- which token is which


def matching_tokens(parts: list[Part], said: Tokens, plain: Tokens) -> list[int]:
    """The token of the caption whose vector each token of its restatement should have.

    Tokens of a part are matched in order, evenly if one side has more of them. Special tokens, and
    words of what is absent, are matched with the caption's last token, which ends it.

    Args:
        parts: The restatement.
        said: Tokens of its left side.
        plain: Tokens of its right side.

    Returns:
        For each token of `said` the position of one of `plain`.

    Raises:
        ValueError: An encoder splits a side into other words.
    """
    end = len(plain.ids) - 1
    matching = [end] * len(said.ids)
    of_said, of_plain = (_tokens_by_part(parts, side, t) for side, t in enumerate((said, plain)))
    for these, those in zip(of_said, of_plain):
        for i, token in enumerate(these):
            if those:
                matching[token] = those[i * len(those) // len(these)]
    return matching


def _tokens_by_part(parts: list[Part], side: int, tokens: Tokens) -> list[list[int]]:
    """The positions of the tokens of each part, on one side."""
    counts = [len(part[side].split()) for part in parts]
    if sum(counts) != len(tokens.words):
        raise ValueError(f"expected {sum(counts)} words, those of the parts; got {tokens.words}")
    first = accumulate([0, *counts])
    return [
        [token for word in range(at, at + count) for token in tokens.positions_of_word(word)]
        for at, count in zip(first, counts)
    ]


# ---------------------------------------------------------------- the loss


def squared_errors(
    student: TextEncoder, teacher: TextEncoder, restatements: list[list[Part]]
) -> Tensor:
    """The squared errors of the student's vectors, [tokens, width].

    Args:
        student: Reads the restatements, with gradients.
        teacher: Reads the captions.
        restatements: As of `restate`.
    """
    # 1. Both sides, as tokens; for each token of the left side one of the right.
    sides = [said_and_plain(parts) for parts in restatements]
    said = [student.tokenize_prompt(text) for text, _ in sides]
    plain = [teacher.tokenize_prompt(text) for _, text in sides]
    matching = [matching_tokens(*three) for three in zip(restatements, said, plain)]
    # 2. The vectors of both.
    mine = student.model(**_model_inputs(student, said)).last_hidden_state
    with torch.no_grad():
        theirs = teacher.model(**_model_inputs(teacher, plain)).last_hidden_state
    mine = torch.cat([row[: len(to)] for row, to in zip(mine, matching)])
    theirs = torch.cat([row[to] for row, to in zip(theirs, matching)])
    return (mine - theirs).square()


def _model_inputs(encoder: TextEncoder, prompts: list[Tokens]) -> dict[str, Tensor]:
    """Padded tokens of prompts and their mask."""
    ids = [torch.tensor(tokens.ids) for tokens in prompts]
    padding = encoder.tokenizer.pad_token_id
    mask = [torch.ones_like(row) for row in ids]
    return {
        "input_ids": pad_sequence(ids, True, padding).to(encoder.model.device),
        "attention_mask": pad_sequence(mask, True).to(encoder.model.device),
    }


def variance_of(teacher: TextEncoder) -> float:
    """The variance of the teacher's vectors about their mean, in captions."""
    rng = random.Random("variance")
    texts = [said_and_plain(random_restatement(rng))[1] for _ in range(HELD_OUT)]
    text = teacher(texts)
    return text.emb[text.mask].var(0).mean().item()


def held_out_losses(student: TextEncoder, teacher: TextEncoder) -> dict[str, float]:
    """The mean squared error on restatements that are not trained on, by kind, as a share of the
    variance of the teacher's vectors.
    """
    variance, found = variance_of(teacher), {}
    for kind, (wording, _) in WORDINGS.items():
        rng = random.Random(f"held out/{kind}")
        batch = [random_restatement(rng, wording) for _ in range(HELD_OUT)]
        with torch.no_grad():
            error = squared_errors(student, teacher, batch).mean().item()
        found[kind] = round(error / variance, 4)
    return found


# ---------------------------------------------------------------- training


def distill(
    student: TextEncoder,
    teacher: TextEncoder,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    time_limit: float,
    eval_every: int = 500,
) -> dict:
    """Train a student, in place.

    Args:
        student: The encoder to train.
        teacher: The encoder whose vectors it learns; it is left alone.
        steps: At most this many.
        batch: Restatements a step.
        lr: Highest learning rate; it falls linearly to 0.
        seed: Of the restatements.
        time_limit: In seconds; the learning rate reaches its end with it, if it comes before
            `steps`.
        eval_every: Steps between two measurements (default: 500).

    Returns:
        What the run took: steps, seconds, loss, the held-out losses by kind, and the curve, a list
        of [step, seconds, loss, held-out losses]. Ctrl-C ends the run early.
    """
    model = student.model.requires_grad_(True)
    rng, variance = random.Random(f"restatements/{seed}"), variance_of(teacher)

    def learn() -> float:
        # 1. Restatements of like length together, so that little is padding.
        restatements = [random_restatement(rng) for _ in range(batch)]
        restatements.sort(key=lambda parts: len(said_and_plain(parts)[0]))
        # 2. The gradient of the mean over all tokens.
        loss, tokens = 0.0, 0
        for low, high in pairwise(part * batch // PARTS for part in range(PARTS + 1)):
            if low == high:
                continue
            errors = squared_errors(student, teacher, restatements[low:high]) / variance
            errors.mean(1).sum().backward()
            loss, tokens = loss + errors.mean(1).sum().item(), tokens + len(errors)
        for p in model.parameters():
            p.grad /= tokens
        return loss / tokens

    def measure() -> dict[str, float]:
        return held_out_losses(student, teacher)

    before = measure()
    try:
        log = fit(
            model,
            learn,
            measure,
            steps,
            lr,
            time_limit,
            eval_every,
            warmup=100,
            least=0.0,
            name="distillation",
        )
    finally:
        model.requires_grad_(False)
    log["curve"].insert(0, [0, 0.0, None, before])
    return log | {"held_out_losses": log["curve"][-1][3]}


def plot_curve(curve: list, path: Path) -> None:
    """Draw the held-out losses over the steps, a panel for each kind of restatement."""
    sheet, panels = subplots(list(WORDINGS), "step")
    for kind, panel in zip(WORDINGS, panels):
        losses = [point[3][kind] for point in curve]
        label = "squared error, as a share of the variance of the teacher's vectors"
        panel.plot([point[0] for point in curve], losses, **STYLES[0], label=label)
        panel.set_ylim(bottom=0)
    save_figure(sheet, path)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/text_encoder_distilled"))
    parser.add_argument(
        "--teacher",
        default="teacher",
        help="the encoder whose vectors are learnt (default: the shipped teacher)",
    )
    parser.add_argument(
        "--student", help="the encoder to start from, of the same width (default: the teacher)"
    )
    parser.add_argument("--steps", type=integer(low=1), default=8000)
    parser.add_argument("--batch", type=integer(low=1), default=64, help="restatements a step")
    parser.add_argument("--lr", type=number(above=0), default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--time-limit",
        type=number(above=0),
        default=3600,
        help="seconds; the learning rate reaches its end with it",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--figure", type=Path, help="draw the curve of the losses to this file")
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    if args.figure is not None:
        check_output_file(args.figure, FIGURES)
    device = available_device(args.device)
    started_from = args.student or args.teacher
    teacher = TextEncoder.from_pretrained(args.teacher).to(device)
    student = TextEncoder.from_pretrained(started_from).to(device)
    kind = student.model.config.model_type
    if student.width != teacher.width or kind != "t5":
        raise ValueError(
            f"--student: expected a t5 of width {teacher.width}, as the teacher's; got a {kind} of "
            f"width {student.width}"
        )
    # 1. Training.
    log = distill(student, teacher, args.steps, args.batch, args.lr, args.seed, args.time_limit)
    # 2. The student, saved with its history. Networks of the teacher know it by the digest.
    student.model.config.teacher_digest = teacher.teacher_digest or teacher.weights_digest()
    student.cpu().save_pretrained(args.out)
    settings = {"batch": args.batch, "learning_rate": args.lr, "seed": args.seed}
    settings |= {"corpus": "restatements", "teacher": teacher.weights_digest()}
    save_history(args.out, started_from, log | settings, args.device)
    if args.figure is not None:
        plot_curve(log["curve"], args.figure)
        print(args.figure)
    print(f"{log['steps']:,} steps, {log['seconds']} s, saved in {args.out}")
    print("error on restatements that were not trained on, as a share of the variance:")
    before = log["curve"][0][3]
    for kind, loss in log["held_out_losses"].items():
        print(f"  {kind:20} {loss:7.3f}   before: {before[kind]:.3f}")


if __name__ == "__main__":
    run_script(main)
