"""Folders that someone else made: whatever is in them, loading gives a model or our own error, runs
no code and allocates nothing absurd.
"""

import json
import os
import pickle
import shutil
import struct
import time

import pytest
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.weights import WEIGHTS

OURS = (ValueError, FileNotFoundError)


@pytest.fixture(scope="module")
def saved(tiny_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "pipeline")


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "part, names",
    [
        ("base", ["model.safetensors", "model.bin", "model.pt", "pytorch_model.bin", "model.ckpt"]),
        (
            "text_encoder",
            ["model.safetensors", "pytorch_model.bin", "model.pt", "tf_model.h5", "tokenizer.pkl"],
        ),
    ],
)
@pytest.mark.parametrize("beside", [True, False], ids=["beside the weights", "in their place"])
def test_no_pickle_is_run_under_any_name(copy, tmp_path, part, names, beside):
    mark = tmp_path / "it ran"
    if not beside:
        (copy / part / "model.safetensors").unlink()
    for name in names[beside:]:
        (copy / part / name).write_bytes(pickle.dumps(Evil(mark)))
    if beside:
        ImagenPipeline.from_pretrained(copy)
    else:
        with pytest.raises(OURS, match=str(copy / part)):
            ImagenPipeline.from_pretrained(copy)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()  # it would have


def leaves(value, path=()):
    """The paths of all values in nested JSON, of groups too."""
    yield path
    for key, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from leaves(inner, (*path, key))


def changed(value, path, new):
    value = json.loads(json.dumps(value))
    if not path:
        return new
    target = value
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = new
    return value


ABSURD = [None, True, -1, 0, 7, 10**12, 1e308, float("nan"), "", "x", [], [0], {}, {"x": 1}]


def test_any_value_in_a_stage_configuration_may_be_absurd(saved, tmp_path):
    folder = shutil.copytree(saved / "sr_256", tmp_path / "stage")
    good = json.loads((folder / "config.json").read_text())
    refused = accepted = 0
    began = time.monotonic()
    for path in leaves(good["stage"]):
        for new in ABSURD:
            (folder / "config.json").write_text(
                json.dumps({**good, "stage": changed(good["stage"], path, new)})
            )
            try:
                load_stage(folder)
                accepted += 1
            except ValueError as error:
                assert str(folder) in str(error)
                refused += 1
    assert refused > 10 * accepted and accepted > 0, (refused, accepted)
    assert time.monotonic() - began < 600  # none of them hangs; all take a few seconds


def test_a_configuration_of_terabytes_is_refused_before_they_are_allocated(copy):
    file = copy / "base" / "config.json"
    config = json.loads(file.read_text())
    config["stage"]["unet"] |= {"channels": [65536, 65536], "emb_dim": 65536}
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the weights are not those of config.json"):
        load_stage(copy / "base")
    config["stage"]["unet"]["channels"] = [65536 * 16] * 2
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="channels must be at most 65,536; got"):
        load_stage(copy / "base")


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**9) + b"{}",
        header({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        header({"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        header({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        header([]),
        b"\x02" + b"\0" * 7 + b"\xff\xff",
    ],
    ids=[
        "empty",
        "short",
        "header of 2^63",
        "header of 1 GB",
        "4 TB",
        "overlapping",
        "unknown dtype",
        "negative",
        "another tensor",
        "no object",
        "no text",
    ],
)
def test_a_weights_file_may_claim_anything(copy, content):
    (copy / "base" / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=str(copy / "base")):
        load_stage(copy / "base")


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"x": "../../etc/passwd"}}',
        '{"weight_map": {"x": "/etc/passwd"}}',
        '{"weight_map": {"x": "missing.safetensors"}}',
        '{"weight_map": {"x": 3}}',
        '{"weight_map": {"x": ""}}',
    ],
)
def test_an_index_of_shards_may_claim_anything(copy, index):
    (copy / "base" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(OURS, match=str(copy / "base")):
        load_stage(copy / "base")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"model_type": "bert"}',
        '{"d_model": -1, "model_type": "t5"}',
        '{"d_model": 1000000000000, "model_type": "t5"}',
        '{"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}',
    ],
)
def test_a_text_encoder_folder_may_claim_anything(copy, file, content):
    (copy / "text_encoder" / file).write_text(content)
    try:
        ImagenPipeline.from_pretrained(copy)(
            "a ring", num_inference_steps=1, stages=("base",), progress=False
        )
    except OURS as error:
        assert "text_encoder" in str(error) or "text encoder" in str(error), error


def test_a_stage_of_another_text_encoder_is_refused_with_both_names(copy, encoder):
    file = copy / "base" / "config.json"
    config = json.loads(file.read_text())
    for identity in (None, encoder.weights_digest()):
        config["stage"]["text_encoder"] = identity
        file.write_text(json.dumps(config))
        ImagenPipeline.from_pretrained(copy)
    config["stage"]["text_encoder"] = "0123456789abcdef"
    file.write_text(json.dumps(config))
    with pytest.raises(
        ValueError,
        match="base was trained with text encoder 0123456789abcdef, this one is "
        f"{encoder.weights_digest()}",
    ):
        ImagenPipeline.from_pretrained(copy)


def test_the_shipped_stages_name_the_shipped_teacher_whatever_its_precision(encoder):
    teacher, half = (
        type(encoder).from_pretrained("teacher", dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    names = {load_stage(WEIGHTS / stage).config.text_encoder for stage in ("base", "sr_256")}
    assert names == {teacher.weights_digest()} == {half.weights_digest()}
    assert names == {encoder.teacher_digest}
