"""A run remembers its text encoder: whoever goes on with it, exports it or reports on it need not
name it.
"""

import json
import shutil

import pytest
import torch
from support.tiny_runs import train
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from imagen_mini.cascade.serialization import load_stage
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.text_probes import random_encoder_like
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import load_checkpoint, save_checkpoint
from imagen_mini.training.encoder_of_run import (
    find_text_encoder,
    shipped_encoder_with,
    text_encoder_of,
)
from imagen_mini.weights import WEIGHTS
from train import check_dataset, export_pipeline, report


@pytest.fixture(scope="module")
def bytes_encoder(tmp_path_factory):
    """A tiny ByT5."""
    folder = tmp_path_factory.mktemp("byt5")
    torch.manual_seed(0)
    config = T5Config(vocab_size=384, d_model=32, d_ff=64, num_layers=1, num_heads=4, d_kv=8)
    T5EncoderModel(config).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(bytes_encoder, tmp_path_factory):
    """A run with it, of one step, that was resumed for another without naming it."""
    folder = tmp_path_factory.mktemp("runs") / "base"
    train(folder, "steps=1", "--text-encoder", str(bytes_encoder), "stage.unet.text_width=32")
    train(folder, "--resume", "steps=2")
    return folder


def test_a_resumed_run_has_the_encoder_it_began_with(run, bytes_encoder):
    state = load_checkpoint(run)[1]
    assert (state["step"], state["text_encoder"]) == (2, str(bytes_encoder))


def test_an_exported_pipeline_has_the_encoder_of_the_run(run, bytes_encoder, tmp_path):
    for source in (run, run / "stage"):
        export_pipeline.main(["--base", str(source), "--out", str(tmp_path / "pipeline")])
        pipe = ImagenPipeline.from_pretrained(tmp_path / "pipeline")
        assert (
            pipe.text_encoder.weights_digest()
            == TextEncoder.from_pretrained(bytes_encoder).weights_digest()
        )
    images = pipe(
        ["a red circle", "a crimson circle"],
        seed=0,
        num_inference_steps=2,
        edit=Replace(shared_prompt_steps=0),
        progress=False,
    ).stages["base"]
    assert images.isfinite().all()


def test_a_new_run_from_a_stage_has_the_encoder_of_the_stage(run, bytes_encoder, tmp_path):
    train(tmp_path / "new", "--init-from", str(run / "stage"), "steps=1")
    assert load_checkpoint(tmp_path / "new")[1]["text_encoder"] == str(bytes_encoder)
    assert text_encoder_of(run) == text_encoder_of(run / "stage") == str(bytes_encoder)


@pytest.fixture
def few_captions(monkeypatch):
    monkeypatch.setattr("train.train.FITTED_CAPTIONS", 100)


@pytest.mark.usefixtures("few_captions")
def test_a_new_run_may_start_from_a_stage_of_another_encoder(run, tmp_path, capsys):
    train(
        tmp_path / "new",
        *("--init-from", str(run / "stage"), "--text-encoder", str(WEIGHTS / "text_encoder")),
        *("stage.text_encoder=null", "steps=1"),
    )
    assert "a projection, fitted to 100 captions of scenes" in capsys.readouterr().out
    assert text_encoder_of(tmp_path / "new") == str(WEIGHTS / "text_encoder")
    # the words inside the network are as wide as before, and a resumed run is the same network
    train(tmp_path / "new", "--resume", "steps=2")
    unet = load_stage(tmp_path / "new" / "stage").config.unet
    assert (unet.text_width, unet.cross_attention_dim) == (128, 32)


def test_a_run_may_start_with_an_encoder_that_was_taught_but_not_resume(
    run, bytes_encoder, tmp_path, capsys
):
    teacher = TextEncoder.from_pretrained(bytes_encoder)
    student = random_encoder_like(teacher, seed=1)
    student.model.config.teacher_digest = teacher.weights_digest()
    student.save_pretrained(tmp_path / "student")
    options = ("--text-encoder", str(tmp_path / "student"))
    train(tmp_path / "new", "--init-from", str(run / "stage"), *options, "steps=1")
    assert "another text encoder" not in capsys.readouterr().out
    new = load_stage(tmp_path / "new" / "stage").config
    assert new.text_encoder == student.weights_digest() and new.unet.cross_attention_dim is None
    with pytest.raises((SystemExit, ValueError), match="is not the text encoder that this stage"):
        train(run, "--resume", "steps=3", *options)


def test_where_the_captions_are_not_known_what_reads_words_begins_anew(run, tmp_path, capsys):
    stage = tmp_path / "stage"
    shutil.copytree(run / "stage", stage)
    config = json.loads((stage / "config.json").read_text())
    for phase in config["training"]["training_phases"]:
        phase["data"] = {"source": "folder", "name": "pictures"}
    (stage / "config.json").write_text(json.dumps(config))
    train(
        tmp_path / "new",
        *("--init-from", str(stage), "--text-encoder", str(WEIGHTS / "text_encoder")),
        *("stage.text_encoder=null", "steps=1"),
    )
    assert "keys and values of words begin anew" in capsys.readouterr().out

    # nor where the former encoder is gone
    config["training"] = json.loads((run / "stage" / "config.json").read_text())["training"]
    config["training"]["text_encoder"] = str(tmp_path / "gone")
    (stage / "config.json").write_text(json.dumps(config))
    train(
        tmp_path / "newer",
        *("--init-from", str(stage), "--text-encoder", str(WEIGHTS / "text_encoder")),
        *("stage.text_encoder=null", "steps=1"),
    )
    assert "keys and values of words begin anew" in capsys.readouterr().out
    unet = load_stage(tmp_path / "new" / "stage").config.unet
    assert (unet.text_width, unet.cross_attention_dim) == (128, None)


def test_a_report_reads_with_the_encoder_of_the_run(run, bytes_encoder, monkeypatch):
    class FoundError(Exception):
        pass

    def stop(path, *_):
        raise FoundError(str(path))

    monkeypatch.setattr(report.TextEncoder, "from_pretrained", stop)
    with pytest.raises(FoundError, match=str(bytes_encoder)):
        report.main([str(run), "--device", "cpu"])


def test_captions_are_counted_in_the_tokens_of_the_run(run, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    from PIL import Image

    Image.new("RGB", (64, 64)).save(folder / "1.png")
    (folder / "metadata.jsonl").write_text(
        json.dumps({"file_name": "1.png", "text": "ring " * 110}) + "\n"
    )
    check_dataset.main([str(folder), "--run", str(run)])
    assert "the caption has 550 tokens" in capsys.readouterr().out  # 550 bytes with the end token
    check_dataset.main([str(folder)])
    assert "tokens" not in capsys.readouterr().out  # 111 of the shipped encoder's
    with pytest.raises(SystemExit, match="--run .*: there is no such folder"):
        check_dataset.main([str(folder), "--run", str(tmp_path / "none")])


def test_an_encoder_that_is_gone_is_an_error_that_names_it(run, bytes_encoder, tmp_path):
    gone = tmp_path / "encoder"
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((copy / "stage" / "config.json").read_text())
    config["training"]["text_encoder"] = str(gone)
    (copy / "stage" / "config.json").write_text(json.dumps(config))
    command = ["--base", str(copy), "--out", str(tmp_path / "pipeline")]
    with pytest.raises(
        FileNotFoundError, match=f"{gone}, which is not there any more; .*--text-encoder"
    ):
        export_pipeline.main(command)
    export_pipeline.main([*command, "--text-encoder", str(bytes_encoder)])


def test_what_names_no_encoder_has_the_shipped_one(tmp_path):
    assert text_encoder_of(tmp_path) is None
    assert find_text_encoder(None, tmp_path) == str(WEIGHTS / "text_encoder")
    assert find_text_encoder(None) == str(WEIGHTS / "text_encoder")
    assert find_text_encoder("a/b", tmp_path) == "a/b"
    assert text_encoder_of(WEIGHTS) == text_encoder_of(WEIGHTS / "base")
    assert text_encoder_of(WEIGHTS / "base") == str(WEIGHTS / "text_encoder")


def test_a_run_that_names_no_encoder_resumes_with_the_shipped_one_that_it_was_trained_with(
    tmp_path,
):
    """As runs do that are older than the encoder of the pipelines, which its teacher was before."""
    run = tmp_path / "run"
    train(run, "steps=1", "--text-encoder", "teacher")
    tensors, state, _ = load_checkpoint(run)
    save_checkpoint(run, 1, tensors, state | {"text_encoder": None})
    train(run, "--resume", "steps=2")
    state = load_checkpoint(run)[1]
    assert (state["step"], state["text_encoder"]) == (2, "teacher")
    student = TextEncoder.from_pretrained("distilled").weights_digest()
    for digest in (student, "0123456789abcdef", None):
        assert shipped_encoder_with(digest) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"training": 3}', '{"training": null}', '"x"'])
def test_a_damaged_configuration_names_no_encoder(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert text_encoder_of(tmp_path) is None
