"""Text encoders other than T5: BERT, the text model of CLIP, a language model. All are tiny, with
random weights.
"""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ByT5Tokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
)

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.text.cache import CachedTextEncoder, exact_digest
from imagen_mini.text.encoder import TextEncoder

PROMPTS = ["a red circle", "blue circles above a red square", "star"]
WORDS = ("a", "red", "blue", "circle", "square", "star", "above", "##s")
VOCABULARY = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
SIZE = dict(
    vocab_size=len(VOCABULARY),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=3,
)


def tokenizer_of(**options) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        | options,
    )


def model_of(kind):
    torch.manual_seed(0)
    if kind == "bert":
        return BertModel(BertConfig(**SIZE, max_position_embeddings=64))
    if kind == "clip":
        return CLIPTextModel(CLIPTextConfig(**SIZE, max_position_embeddings=12))
    return LlamaModel(LlamaConfig(**SIZE, max_position_embeddings=64))


@pytest.fixture(params=["bert", "clip", "llama"])
def folder(request, tmp_path):
    model_of(request.param).save_pretrained(tmp_path)
    # language models come with padding in front
    tokenizer_of(padding_side="left" if request.param == "llama" else "right").save_pretrained(
        tmp_path
    )
    return tmp_path


def test_any_encoder_of_hidden_states_can_be_used(folder):
    encoder = TextEncoder.from_pretrained(folder)
    text = encoder(PROMPTS)
    assert encoder.width == 32 and text.emb.shape == (3, 9, 32)
    assert text.mask.sum(1).tolist() == [5, 9, 3]
    for row, n in zip(text.mask, (5, 9, 3)):
        assert row.tolist() == [True] * n + [False] * (9 - n)  # padding stands behind
    assert not text.emb[~text.mask].any() and text.emb[text.mask].abs().amax(-1).min() > 0
    assert not any(p.requires_grad for p in encoder.parameters())


def test_embeddings_are_the_hidden_states_of_the_model_whatever_else_is_in_the_batch(folder):
    encoder = TextEncoder.from_pretrained(folder)
    together = encoder(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([encoder.tokenize_prompt(prompt).ids])
        with torch.no_grad():
            states = encoder.model(input_ids=ids).last_hidden_state[0]
        assert torch.allclose(encoder(prompt).emb[0], states, atol=1e-5)
        assert torch.allclose(together.emb[row, : len(states)], states, atol=1e-5)


@pytest.mark.parametrize("prompts", [["", "a red circle"], [""]])
def test_an_empty_prompt_has_something_to_attend_to_without_special_tokens(tmp_path, prompts):
    """As with GPT-2, whose tokenizer adds none."""
    model_of("llama").save_pretrained(tmp_path)
    plain = tokenizer_of()
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    plain.save_pretrained(tmp_path)
    text = TextEncoder.from_pretrained(tmp_path)(prompts)
    assert text.mask.any(1).all() and text.mask[0].sum() == 1
    assert text.emb.isfinite().all()


def test_loading_leaves_the_library_s_progress_bars_as_they_are(folder):
    from transformers.utils import logging

    was = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        TextEncoder.from_pretrained(folder)
        assert logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar() if was else logging.disable_progress_bar()


def test_tokens_know_their_words(folder):
    tokens = TextEncoder.from_pretrained(folder).tokenize_prompt(PROMPTS[1])
    assert tokens.words == ("blue", "circles", "above", "a", "red", "square")
    assert [tokens.pieces[i] for i in tokens.positions_of_word(1)] == ["circle", "##s"]
    assert [tokens.word_ids[i] for i in (0, -1)] == [None, None]  # begin and end


def test_digests_and_embeddings_survive_saving(folder, tmp_path_factory):
    encoder, again = TextEncoder.from_pretrained(folder), tmp_path_factory.mktemp("again")
    encoder.save_pretrained(again)
    other = TextEncoder.from_pretrained(again)
    assert torch.equal(other(PROMPTS).emb, encoder(PROMPTS).emb)
    assert other.weights_digest() == encoder.weights_digest()
    assert exact_digest(other) == exact_digest(encoder)
    half = TextEncoder.from_pretrained(folder, torch.bfloat16)
    assert half.weights_digest() == encoder.weights_digest()
    with torch.no_grad():
        next(other.model.parameters())[0, 0] += 1
    assert other.weights_digest() != encoder.weights_digest()
    assert exact_digest(other) != exact_digest(encoder)


def test_the_cache_returns_what_the_encoder_returns(folder, tmp_path_factory):
    encoder = TextEncoder.from_pretrained(folder)
    cached = CachedTextEncoder(encoder, tmp_path_factory.mktemp("cache"))
    expected = encoder(PROMPTS)
    for _ in range(2):
        text = cached(PROMPTS)
        assert torch.equal(text.emb, expected.emb) and torch.equal(text.mask, expected.mask)


def test_a_prompt_is_cut_where_the_positions_of_the_model_end(tmp_path):
    encoder = TextEncoder(model_of("clip"), tokenizer_of())
    assert encoder.max_length == 12
    with pytest.warns(UserWarning, match="more than 12 tokens; left out: 'blue star'"):
        text = encoder("red " * 10 + "blue star")
    assert text.emb.shape == (1, 12, 32) and text.emb.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder("red " * 10)
    assert TextEncoder(model_of("clip"), tokenizer_of(), max_length=5).max_length == 5
    assert TextEncoder(model_of("bert"), tokenizer_of(model_max_length=9)).max_length == 9


def test_a_pipeline_samples_and_edits_with_another_encoder_and_comes_back_from_disk(
    folder, tmp_path_factory, randomize_zero_init
):
    encoder, saved = TextEncoder.from_pretrained(folder), tmp_path_factory.mktemp("pipe")
    config = PRESETS["tiny"]["base"]
    config = replace(config, unet=replace(config.unet, text_width=32), num_inference_steps=4)
    torch.manual_seed(0)
    pipe = ImagenPipeline(encoder, [randomize_zero_init(DiffusionStage(config))])
    options = dict(seed=0, progress=False, edit=Replace(shared_prompt_steps=0))
    images = pipe(["a red circle", "a blue circle"], **options).stages["base"]
    assert images.isfinite().all() and not torch.equal(images[0], images[1])
    pipe.save_pretrained(saved)
    again = ImagenPipeline.from_pretrained(saved)
    assert torch.equal(again(["a red circle", "a blue circle"], **options).stages["base"], images)


def test_a_checkpoint_without_the_pooling_head_is_complete(tmp_path):
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**SIZE)).save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    encoder = TextEncoder.from_pretrained(tmp_path)
    assert encoder(PROMPTS).emb.isfinite().all()
    assert encoder.weights_digest() == TextEncoder.from_pretrained(tmp_path).weights_digest()


# ---------------------------------------------------------------- errors


def bart():
    return BartModel(
        BartConfig(
            vocab_size=12,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
        )
    )


VISION = dict(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=8,
    patch_size=4,
)


def clip():
    return CLIPModel(CLIPConfig(text_config=SIZE, vision_config=VISION))


def siglip():
    return SiglipModel(SiglipConfig(text_config=SIZE, vision_config=VISION))


def vision():
    return ViTModel(ViTConfig(**VISION))


@pytest.mark.parametrize(
    "model, options, message",
    [
        (bart, {}, "BartModel has a decoder; of such models only the T5 family"),
        (siglip, {}, "'siglip', and SiglipModel is more than a text model; save its text model"),
        (vision, {}, "'vit', and ViTModel does not turn tokens into hidden states"),
        (lambda: model_of("bert"), {"pad_token": None}, "has no padding token; set its pad_token"),
    ],
    ids=["a decoder", "images too", "images alone", "no padding"],
)
def test_what_is_no_text_encoder_is_an_error_with_its_cure(model, options, message, tmp_path):
    model().save_pretrained(tmp_path)
    tokenizer_of(**options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} is no text encoder.*: .*{message}"):
        TextEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": None}, 'has no model_type, .* add it, for example "model_type": "bert"'),
        (
            {"model_type": "my_bert"},
            "model_type is 'my_bert', which transformers .* does not",
        ),
        ({"model_type": "marian", "is_encoder_decoder": True}, "'marian', and .* has a decoder"),
    ],
    ids=["none", "unknown", "a decoder"],
)
def test_a_model_type_that_cannot_be_used_is_refused_with_those_that_can(change, message, tmp_path):
    model_of("bert").save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()  # they are not needed to see it
    with pytest.raises(ValueError, match=message) as found:
        TextEncoder.from_pretrained(tmp_path)
    for family in ("t5, mt5, umt5", "bert", "clip", "ByT5"):
        assert family in str(found.value)


def test_weights_of_another_model_are_refused_with_the_cure(tmp_path):
    """A config.json of T5 beside the weights of a BERT."""
    byt5(tmp_path)
    model_of("bert").save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").replace(tmp_path / "model.safetensors")
    tokenizer_of().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tensors are missing.*of another model than its config"):
        TextEncoder.from_pretrained(tmp_path)


def test_a_pickle_is_refused_with_the_cure(tmp_path):
    model_of("bert").save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin is a pickle.*save_pretrained"):
        TextEncoder.from_pretrained(tmp_path)


def test_the_text_model_of_a_whole_clip_is_used(tmp_path, capfd):
    torch.manual_seed(0)
    whole = clip()
    whole.save_pretrained(tmp_path / "whole")
    tokenizer_of().save_pretrained(tmp_path / "whole")
    capfd.readouterr()
    encoder = TextEncoder.from_pretrained(tmp_path / "whole")
    assert "UNEXPECTED" not in "".join(capfd.readouterr())  # no report of the image model's weights
    ids = torch.tensor([encoder.tokenize_prompt("a red circle").ids])
    with torch.no_grad():
        expected = whole.text_model(input_ids=ids).last_hidden_state
    assert torch.equal(encoder("a red circle").emb, expected)
    encoder.save_pretrained(tmp_path / "text")
    again = TextEncoder.from_pretrained(tmp_path / "text")
    assert torch.equal(again("a red circle").emb, expected)
    assert again.weights_digest() == encoder.weights_digest()


def test_an_encoder_with_a_missing_tensor_is_an_error_that_names_it(tmp_path):
    model_of("bert").save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"not all of a text encoder \(bert\): 1 .*{name}"):
        TextEncoder.from_pretrained(tmp_path)


# ---------------------------------------------------------------- tokenizers that are none


def byt5(folder):
    config = T5Config(vocab_size=384, d_model=32, d_ff=64, num_layers=1, num_heads=4, d_kv=8)
    T5EncoderModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["t5", "bert", "clip", "llama"])
@pytest.mark.parametrize("left", ["nothing", "its configuration"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, kind, left):
    """The library makes up an empty vocabulary for some, and all captions are alike."""
    (byt5(tmp_path) if kind == "t5" else model_of(kind).save_pretrained(tmp_path))
    if left != "nothing":
        tokenizer_of().save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="(has no vocabulary|has no tokenizer).*tokenizer.json"):
        TextEncoder.from_pretrained(tmp_path)


def test_a_vocabulary_that_the_model_does_not_know_is_refused(tmp_path):
    BertModel(BertConfig(**SIZE | {"vocab_size": 8})).save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="that of another model: token 11 is beyond the 8"):
        TextEncoder.from_pretrained(tmp_path)


def test_a_tokenizer_that_would_be_read_back_as_another_is_refused_at_the_start(folder):
    encoder = TextEncoder.from_pretrained(folder)
    encoder.check_can_be_saved()
    encoder.tokenizer = ByT5Tokenizer()  # its ids are read back, its words are not
    with pytest.raises(ValueError, match="ByT5Tokenizer is read back as"):
        encoder.check_can_be_saved()
