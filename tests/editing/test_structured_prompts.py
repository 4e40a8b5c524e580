"""StructureDiffusion against its definition: the mean of attention with each phrase's values."""

import pytest
import torch

from imagen_mini.editing.attention_guidance import DifferentiableMaps
from imagen_mini.editing.structured_prompts import (
    StructuredValues,
    noun_phrases,
    structured_values,
)
from imagen_mini.utils.rng import randn

PROMPTS = ["a red circle to the left of a blue square", "a star"]
T = torch.tensor(0.7)


@pytest.fixture(scope="module")
def parts(tiny_pipe):
    encoder, stage = tiny_pipe.text_encoder, tiny_pipe.stages["base"]
    tokens = [encoder.tokenize_prompt(p) for p in PROMPTS]

    def values_of(text):
        return {name: kv.chunk(2, -1)[1] for name, kv in stage.net.prepare_text(text).kv.items()}

    def read_alone(phrase):
        return encoder.tokenize_prompt(phrase), encoder(phrase)

    return stage, tokens, encoder(PROMPTS), values_of, read_alone


def denoised(stage, text, control):
    at = None if control is None else (lambda t: control)
    with torch.no_grad():
        return stage.denoiser(text, guidance_scale=1.0, threshold="none", control_at=at)(
            randn([0, 1], (3, 64, 64), "x"), T
        )


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a red circle to the left of a blue square", ["a red circle", "a blue square"]),
        ("two red circles, a blue square and three stars",
         ["two red circles", "a blue square", "three stars"]),
        ("on a gray background, a small star", ["a gray background", "a small star"]),
        ("a green cross but no purple triangle", ["a green cross", "no purple triangle"]),
        ("circles and squares", []),
    ],
)  # fmt: skip
def test_noun_phrases_are_found(encoder, prompt, phrases):
    tokens = encoder.tokenize_prompt(prompt)
    assert [" ".join(tokens.words[a:b]) for a, b in noun_phrases(tokens)] == phrases


def test_no_phrases_and_a_phrase_that_is_the_prompt_change_nothing(parts):
    stage, tokens, text, values_of, read_alone = parts
    plain = denoised(stage, text, None)
    for phrases in ([[], []], [[(0, 9)], [(0, 2)]]):
        phrases = [[(0, len(t.words)) for _ in of] for t, of in zip(tokens, phrases)]
        control = structured_values(values_of, text, tokens, read_alone, phrases)
        assert torch.allclose(denoised(stage, text, control), plain, atol=1e-4)


def test_the_output_is_the_mean_over_phrases_of_attention_with_their_values(parts):
    """k + 1 attentions with the same maps, as the paper has it, against one with mean values."""
    stage, tokens, text, values_of, read_alone = parts
    control = structured_values(values_of, text, tokens, read_alone)
    layer = next(a for a in stage.net.attention_layers if a.site.kind == "cross")
    x = randn([0, 1], (layer.to_q.in_features, layer.site.size, layer.site.size), "x")
    refined = stage.net.through_text_layers(text)
    whole = values_of(text)[layer.site.name]
    members = [whole]
    for span in [(0, 3), (7, 10)]:
        alone = values_of(read_alone(" ".join(tokens[0].words[slice(*span)]))[1])[layer.site.name]
        own = whole.clone()
        there = [p for w in range(*span) for p in tokens[0].positions_of_word(w)]
        own[0, there] = alone[0, : len(there)]
        members.append(own)
    with torch.no_grad():
        found = layer(x, refined, control)
        each = [layer(x, refined, StructuredValues({layer.site.name: v})) for v in members]
        plain = layer(x, refined)
    assert torch.allclose(found[0], torch.stack(each).mean(0)[0], atol=1e-5)
    assert not torch.allclose(found[0], plain[0], atol=1e-4)


def test_maps_stay_those_of_the_whole_prompt(parts):
    """In the first layer that attends to words; later ones see other pixels."""
    stage, tokens, text, values_of, read_alone = parts

    class Both(StructuredValues):
        maps = DifferentiableMaps(4)

        def needs_probs(self, site):
            return self.maps.needs_probs(site)

        def modify_probs(self, site, probs, n_text):
            return self.maps.modify_probs(site, probs, n_text)

    first = next(s.name for s in stage.net.sites if s.kind == "cross")
    control = Both(structured_values(values_of, text, tokens, read_alone).values)
    denoised(stage, text, control)
    found = control.maps.maps[first]
    plain = DifferentiableMaps(4)
    denoised(stage, text, plain)
    assert torch.allclose(found, plain.maps[first], atol=1e-6)


def test_a_phrase_that_reads_otherwise_alone_is_an_error(parts):
    stage, tokens, text, values_of, read_alone = parts
    other = lambda phrase: read_alone(phrase + " star")
    with pytest.raises(ValueError, match="'a red circle' has other tokens by itself"):
        structured_values(values_of, text, tokens, other)
