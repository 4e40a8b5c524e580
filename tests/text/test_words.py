"""Words are the same for every encoder, and each token belongs to the word whose characters it
covers. Tokenizers of each kind are built here, tiny and offline.
"""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertModel,
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    MT5Config,
    MT5EncoderModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from imagen_mini.editing.alignment import (
    refinement_mapper,
    replacement_mapper,
    token_positions,
)
from imagen_mini.editing.guides import AttendAndExcite
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.text.loading import fast_byte_tokenizer
from imagen_mini.text.words import assign_tokens_to_words, word_spans

TEXTS = [
    "a red circle, on a blue square",
    "two large striped stars above a small ring.",
    "a green triangle, on wood, lit from the left",
    "circle square star ring cross triangle red blue green striped dotted",
]
SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
T5_SMALL = dict(d_model=32, d_ff=64, num_layers=1, num_heads=4, d_kv=8)


def trained(model, trainer, pre_tokenizer=None, normalizer=None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return tokenizer


def unigram_pieces():
    """Scores of pieces as SentencePiece has them; a piece may hold a comma, and none holds
    spaces within.
    """
    pieces = {"▁", ",", ".", "le,", "▁circ", "le", "▁square", "▁re", "d", "▁a", "▁blue", "'", "-"}
    letters = set("abcdefghijklmnopqrstuvwxyz")
    return [(p, -2.0 * len(p) ** 0.5 - (len(p) == 1)) for p in sorted(pieces | letters)]


def t5(**options):
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    return T5Tokenizer(vocab=special + unigram_pieces(), extra_ids=4, **options)


def bert():
    trainer = trainers.WordPieceTrainer(
        vocab_size=70,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        initial_alphabet=list("'-.,"),
        show_progress=False,
    )
    tokenizer = trained(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        pre_tokenizers.BertPreTokenizer(),
        normalizers.BertNormalizer(),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def byte_pairs(special):
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))


def roberta():
    import json

    state = json.loads(byte_pairs(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]).to_str())["model"]
    return RobertaTokenizer(vocab=state["vocab"], merges=[tuple(m) for m in state["merges"]])


def clip():
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789,.'-")
    names = letters + [f"{c}</w>" for c in letters]
    merges = [("r", "e"), ("re", "d</w>"), ("c", "i"), ("ci", "r"), ("l", "e</w>"), ("o", "n</w>")]
    names += ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={n: i for i, n in enumerate(names)}, merges=merges)


def llama():
    """As Llama's and Gemma's: spaces become a letter, and nothing splits the text into words."""
    trainer = trainers.BpeTrainer(
        vocab_size=80,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz,.'-▁"),
        show_progress=False,
    )
    tokenizer = trained(
        models.BPE(unk_token="<unk>", fuse_unk=True), trainer, pre_tokenizers.Metaspace()
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", unk_token="<unk>"
    )


# name: tokenizer, configuration, model
KINDS = {
    "t5": (t5, T5Config, T5EncoderModel),
    "mt5": (t5, MT5Config, MT5EncoderModel),
    "umt5": (t5, UMT5Config, UMT5EncoderModel),
    "byt5": (ByT5Tokenizer, T5Config, T5EncoderModel),
    "bert": (bert, BertConfig, BertModel),
    "roberta": (roberta, RobertaConfig, RobertaModel),
    "clip": (clip, CLIPTextConfig, CLIPTextModel),
    "llama": (llama, LlamaConfig, LlamaModel),
}


def save_encoder(kind, folder):
    """A tiny random encoder of a kind, as a folder."""
    tokenizer, config, model = KINDS[kind]
    tokenizer = tokenizer()
    size = T5_SMALL if "t5" in kind else SMALL | {"max_position_embeddings": 80}
    special = {
        name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    torch.manual_seed(0)
    model(config(vocab_size=len(tokenizer), **size, **special)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_encoder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def encoders(folders):
    """An encoder of each kind, loaded from its folder."""
    return {kind: TextEncoder.from_pretrained(folder) for kind, folder in folders.items()}


@pytest.fixture(params=KINDS)
def of_kind(request, encoders):
    return encoders[request.param]


PROMPTS = {
    "a red circle, on a blue square": ("a", "red", "circle", ",", "on", "a", "blue", "square"),
    "it's a red-blue ring.": ("it", "'", "s", "a", "red", "-", "blue", "ring", "."),
    "crimson": ("crimson",),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_word_s_tokens_decode_to_the_word(of_kind, prompt):
    """But where one piece holds the end of a word and a comma: then both are one word."""
    tokens, tokenizer = of_kind.tokenize_prompt(prompt), of_kind.tokenizer
    for number, word in enumerate(tokens.words):
        ids = [tokens.ids[i] for i in tokens.positions_of_word(number)]
        decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert decoded.replace(" ", "") == word, tokens
    assert "".join(tokens.words) == prompt.replace(" ", "")
    if not any("le," in piece for piece in tokens.pieces):
        assert tokens.words == PROMPTS[prompt]
    numbers = [w for w in tokens.word_ids if w is not None]
    assert numbers == sorted(numbers)
    assert [i for i, w in enumerate(tokens.word_ids) if w is None] == [
        i for i, id in enumerate(tokens.ids) if id in tokenizer.all_special_ids
    ]


def test_a_piece_of_two_words_makes_them_one(encoders):
    tokens = encoders["t5"].tokenize_prompt("a red circle, on")
    assert "le," in tokens.pieces
    assert tokens.words == ("a", "red", "circle,", "on")


def test_edits_align_words_of_any_encoder(of_kind):
    source, target = (
        of_kind.tokenize_prompt(p) for p in ("a red circle on a star", "a crimson circle on a star")
    )
    mapper = replacement_mapper(source, target)
    assert mapper.shape == (len(source.ids), len(target.ids))
    assert torch.allclose(mapper.sum(1), torch.ones(len(source.ids)))  # attention is conserved
    for word in ("circle", "on", "star"):  # what follows the swapped word stays aligned
        for i, j in zip(token_positions(source, word), token_positions(target, word)):
            assert mapper[i, j] == 1, word
    assert mapper[token_positions(source, "red")][:, token_positions(target, "crimson")].all()
    longer = of_kind.tokenize_prompt("a red circle on a large star")
    refined = refinement_mapper(source, longer)
    assert not refined[:, token_positions(longer, "large")].any()
    rest = [i for i in range(len(longer.ids)) if i not in token_positions(longer, "large")]
    assert torch.equal(refined[:, rest], torch.eye(len(source.ids)))


def test_attention_to_special_tokens_counts_for_no_word(of_kind):
    """BERT and CLIP have a token before the first word, T5 one after the last."""
    tokens = of_kind.tokenize_prompt("a red circle on a star")
    maps = torch.full((1, 4, 4, len(tokens.ids)), 0.1)
    special = [i for i, word in enumerate(tokens.word_ids) if word is None]
    maps[..., special] = 5.0
    energy = AttendAndExcite(["star"]).energy(SimpleNamespace(tokens=[tokens]))
    share = 1 / (len(tokens.ids) - len(special))
    assert energy(maps).item() == pytest.approx(1 - share, abs=1e-5)


def test_an_encoder_comes_back_from_disk_with_the_same_tokens(of_kind, tmp_path):
    of_kind.check_can_be_saved()
    of_kind.save_pretrained(tmp_path)
    again = TextEncoder.from_pretrained(tmp_path)
    for prompt in PROMPTS:
        assert again.tokenize_prompt(prompt) == of_kind.tokenize_prompt(prompt)
        assert torch.equal(again(prompt).emb, of_kind(prompt).emb)
    assert again.max_length == of_kind.max_length
    assert again.weights_digest() == of_kind.weights_digest()


@pytest.mark.parametrize("kind", KINDS)
def test_float16_is_refused_where_it_is_known_to_overflow(kind, encoders, folders):
    folder = folders[kind]
    if "t5" in kind:
        with pytest.raises(ValueError, match="T5 overflows in float16; use torch.bfloat16"):
            TextEncoder.from_pretrained(folder, torch.float16)
        return
    half = TextEncoder.from_pretrained(folder, torch.float16)
    text = half("a red ring")
    assert text.emb.dtype == torch.float16
    exact = encoders[kind]("a red ring").emb
    assert (text.emb.float() - exact).norm() < 0.01 * exact.norm()
    with torch.no_grad():
        for p in half.parameters():
            p.mul_(1e3)
    with pytest.raises(ValueError, match="overflows in float16; use torch.bfloat16"):
        half("a red ring")


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    "text",
    ["a red circle", "Zürich 漢字 🙂", "", " two  spaces", "½ … “café”", "<extra_id_0> a ring"],
)
def test_the_fast_tokenizer_of_bytes_is_byt5_s(text):
    slow = ByT5Tokenizer()
    fast = fast_byte_tokenizer(slow)
    assert fast(text)["input_ids"] == slow(text)["input_ids"]
    assert len(fast) == len(slow) and fast.pad_token_id == slow.pad_token_id


def test_bytes_have_room_for_a_long_caption(encoders):
    assert encoders["byt5"].max_length == 512 and encoders["t5"].max_length == 128
    tokens = encoders["byt5"].tokenize_prompt("a ½ ring")
    assert tokens.words == ("a", "½", "ring")
    assert len(tokens.positions_of_word(1)) == 3  # the space before it, and two bytes


def test_positions_of_roberta_begin_behind_its_padding(encoders):
    encoder = encoders["roberta"]
    longest = TextEncoder(encoder.model, encoder.tokenizer, max_length=1000)
    assert longest.max_length == 78  # of 80: numbers 0 and 1 are no positions
    with pytest.warns(UserWarning, match="more than 78 tokens"):
        assert longest("ring " * 100).emb.shape[1] == 78


# ---------------------------------------------------------------- words alone


def test_words_are_runs_of_letters_and_single_marks():
    text = " it's  3.5 «red»—ring "
    assert [text[a:b] for a, b in word_spans(text)] == [
        *("it", "'", "s", "3", ".", "5", "«", "red", "»", "—", "ring")
    ]
    assert word_spans("") == [] == word_spans("  ")


@pytest.mark.parametrize(
    "prompt, offsets, ids, words",
    [
        ("a b", [(0, 1), (1, 3)], [0, 1], ["a", "b"]),  # a space within the piece
        ("a b", [(0, 1), (1, 2), (2, 3)], [0, 1, 1], ["a", "b"]),  # and as a piece of its own
        ("a b", [(0, 0), (0, 1), (2, 3)], [0, 0, 1], ["a", "b"]),  # a piece of no characters
        ("a b. c", [(0, 3), (3, 4), (5, 6)], [0, 1, 2], ["a b", ".", "c"]),  # two words, one piece
        ("a b", [(2, 3)], [0], ["b"]),  # left out by the tokenizer
        ("½", [(0, 1), (0, 1), (0, 1)], [0, 0, 0], ["½"]),
        ("", [(0, 0)], [None], []),
    ],
)
def test_tokens_belong_to_the_words_they_cover(prompt, offsets, ids, words):
    found, spans = assign_tokens_to_words(prompt, offsets, [False] * len(offsets))
    assert found == ids and [prompt[a:b] for a, b in spans] == words


def test_special_tokens_belong_to_no_word():
    found, _ = assign_tokens_to_words("a b", [(0, 0), (0, 1), (2, 3), (0, 0)], [1, 0, 0, 1])
    assert found == [None, 0, 1, None]
