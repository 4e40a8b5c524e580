"""What does a text encoder know that no image shows?

    python -m train.probe_text_encoder                          # the shipped one
    python -m train.probe_text_encoder runs/text_encoder_text bert

Each encoder is compared with one of the same form and random weights. Nearest words: of all words
of captions of its kind, the one whose vector is most like that of a rare or misspelt word. Probes:
linear regression from the vector of the word for a shape, fitted to captions and tested on other
words, as a network that has seen captions alone would read them.
"""

from __future__ import annotations

import json
from pathlib import Path

from imagen_mini.evaluation.text_knowledge import (
    VARIANTS,
    absence_probe,
    another_letter,
    count_probe,
    misspelt_words,
    nearest_words,
    share_of_nearest,
    transfer_probes,
    two_slips,
)
from imagen_mini.evaluation.text_probes import random_encoder_like
from imagen_mini.scenes.captions import RARE_WORDS, STUDIO_VOCABULARY
from imagen_mini.scenes.prose.words import ATTRIBUTE_OF, MORE_SYNONYMS
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.utils.scripts import check_output_file, integer, run_script, script_parser
from imagen_mini.weights import WEIGHTS


def meanings(words: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Rare word -> (its kind, the common word)."""
    return {rare: (ATTRIBUTE_OF[common], common) for rare, common in words.items()}


WORDS = {
    "rare words of the benchmark": meanings({**RARE_WORDS, **STUDIO_VOCABULARY.rare_words}),
    "other rare words": meanings(MORE_SYNONYMS),
    "misspelt words": misspelt_words(),
    "words misspelt twice": misspelt_words(slip=two_slips),
    "words with another letter": misspelt_words(slip=another_letter),
}


def measure(encoder: TextEncoder, n: int) -> dict[str, float]:
    """All numbers of one encoder, each a share in [0, 1].

    Args:
        encoder: The text encoder.
        n: Captions of each probe.
    """
    found = {f"nearest: {name}": share_of_nearest(encoder, words) for name, words in WORDS.items()}
    for question, by_variant in transfer_probes(encoder, n).items():
        found |= {f"{question}, {variant}": by_variant[variant] for variant in VARIANTS}
    return found | {
        "number of things": count_probe(encoder, n),
        "there or absent": absence_probe(encoder, n),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "encoders",
        nargs="*",
        default=[str(WEIGHTS / "text_encoder")],
        metavar="ENCODER",
        help="folders or hub names (default: the shipped one)",
    )
    parser.add_argument(
        "--n", type=integer(low=40), default=800, help="captions of each probe (default: 800)"
    )
    parser.add_argument(
        "--neighbours",
        nargs="+",
        metavar="WORD",
        help="show the nearest words of these rare words instead",
    )
    parser.add_argument("--out", type=Path, help="write the numbers to this file, as JSON")
    args = parser.parse_intermixed_args(arguments)
    if args.out is not None:
        check_output_file(args.out, ())
    encoders = {name: TextEncoder.from_pretrained(name) for name in args.encoders}
    if args.neighbours:
        kinds = {word: kind for of in WORDS.values() for word, (kind, _) in of.items()}
        if unknown := [word for word in args.neighbours if word not in kinds]:
            raise ValueError(f"{unknown[0]!r} is no rare word; expected one of {', '.join(kinds)}")
        asked = {word: kinds[word] for word in args.neighbours}
        for name, encoder in encoders.items():
            print(name)
            for word, nearest in nearest_words(encoder, asked).items():
                print(f"  {word:<16} {', '.join(nearest[:4])}")
        return
    found = {}
    for name, encoder in encoders.items():
        found[name] = measure(encoder, args.n)
        found[f"{name}, random weights"] = measure(random_encoder_like(encoder), args.n)
    columns = list(found)
    for i, name in enumerate(columns):
        print(f"[{i + 1}] {name}")
    print(f"{'':<40}" + "".join(f"{f'[{i + 1}]':>7}" for i in range(len(columns))))
    for row in found[columns[0]]:
        print(f"{row:<40}" + "".join(f"{found[name][row]:>7.0%}" for name in columns))
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        print(args.out)


if __name__ == "__main__":
    run_script(main)
