"""How the functions of assignment 5 are called, one function for each question.

It runs in the box with the submitted function, and with the reference to find what is expected. It
holds no answers.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from imagen_mini.editing import alignment, blending, controls, prompt_to_prompt
from imagen_mini.models.control import AttentionSite
from imagen_mini.text.encoder import Tokens


def tokens_of(prompt: dict) -> Tokens:
    """The tokens of a prompt of a case."""
    pieces = tuple(prompt["pieces"])
    return Tokens(
        tuple(range(len(pieces))), pieces, tuple(prompt["word_ids"]), tuple(prompt["words"])
    )


def call_mapper(case: dict):
    source, target = tokens_of(case["source"]), tokens_of(case["target"])
    return alignment._mapper(source, target, [(i, j) for i, j in case["pairs"]])


def call_common(case: dict):
    source, target = tokens_of(case["source"]), tokens_of(case["target"])
    pairs = [(int(i), int(j)) for i, j in alignment.common_words(source, target)]
    return torch.tensor(pairs).reshape(-1, 2)


def make_control(case: dict) -> controls.AttentionInjectionControl:
    """The control of a case."""
    return controls.AttentionInjectionControl(
        case["mappers"],
        case["injected"],
        case["equalizer"],
        case.get("inject_cross", True),
        case.get("inject_self", True),
        case.get("self_size", 16),
    )


def call_wants(case: dict):
    empty = torch.zeros(1, 2, 2)
    both = {"mappers": empty, "injected": empty[0] > 0, "equalizer": empty[0]}
    control = make_control(case | both)
    found = [
        control.needs_probs(AttentionSite("x", "up", kind, size))
        for kind in ("self", "cross", "hybrid")
        for size in (4, 8, 16, 32)
    ]
    return torch.tensor([bool(wants) for wants in found])


def call_inject(case: dict):
    site = AttentionSite("x", "up", case["kind"], 4)
    found = make_control(case).modify_probs(site, case["probs"], case["n_text"])
    return found.clone()


def call_equalizer(case: dict):
    weights = {int(k) if k.isdigit() else k: c for k, c in case["weights"].items()}
    edit = prompt_to_prompt.Reweight(weights)
    return edit.equalizer([tokens_of(t) for t in case["targets"]], case["batch_tokens"])


def call_control(case: dict):
    """All that a control holds, at several times; -1 where there is none."""
    injection = prompt_to_prompt.Replace(
        self_replace_steps=tuple(case["self_window"]), self_size=case["self_size"]
    )
    weights = [(tuple(w), case[f"factors_{i}"]) for i, w in enumerate(case["weight_windows"])]
    bound = prompt_to_prompt.BoundPromptToPrompt(
        injection, case["mappers"], case["windows"], weights
    )
    found = []
    for done in case["done"]:
        control = bound.control_at(done)
        if control is None:
            found.append(torch.full((3,), -1.0, dtype=torch.float64))
            continue
        switches = [control.inject_cross, control.inject_self, control.self_size]
        found.append(torch.tensor([float(s) for s in switches], dtype=torch.float64))
        found += [control.mappers, control.injected, control.equalizer]
    return found


def call_blend(case: dict):
    """The mask of each target, by maps that the case gives."""
    tokens = [tokens_of(t) for t in case["prompts"]]

    def of_tokens(positions, row: int = 0):
        return case[f"heat_{row}"][list(positions)].sum(0)

    maps = SimpleNamespace(tokens=tokens, of_tokens=of_tokens)
    words = [tuple(w) if isinstance(w, list) else w for w in case["words"]]
    edit = blending.LocalBlend(*words, exclude=case.get("exclude", ()), threshold=case["threshold"])
    masks = [edit.mask(maps, target) for target in range(1, len(tokens))]
    return torch.stack([m.expand(6, 6) for m in masks]).double()
