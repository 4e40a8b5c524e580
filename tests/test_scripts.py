"""Every script, run as a newcomer would, on a tiny untrained pipeline: it ends with the files it promises."""

import json

import pytest
import torch
from PIL import Image

from imagen_mini.cascade import load_stage
from imagen_mini.config import PRESETS, TrainConfig, to_dict
from sample import demo, edit, evaluate, generate
from train import assemble, card, progress, train


@pytest.fixture(scope="module")
def folder(tiny_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    leg = {"steps": 3, "seconds": 60, "device": "CPU", "train": to_dict(TrainConfig())}
    tiny_pipe.save_pretrained(folder, {name: {"legs": [leg]} for name in tiny_pipe.stages})
    return str(folder)


def size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


def test_generate_draws_one_caption_at_256_px_and_says_what_it_shows(folder, tmp_path, capsys):
    generate.main(["a red circle", "--pipeline", folder, "--steps", "2", "--out", str(tmp_path / "new" / "a.png")])
    assert size(tmp_path / "new" / "a.png") == (256, 256)
    assert "'a red circle', seed 0: " in capsys.readouterr().out


def test_generate_says_of_a_caption_it_cannot_read_that_it_was_not_judged(folder, tmp_path, capsys):
    generate.main(["an astronaut", "--pipeline", folder, "--steps", "2", "--base-only", "--out", str(tmp_path / "a.png")])
    assert size(tmp_path / "a.png") == (64, 64)
    assert "not judged" in capsys.readouterr().out


def test_generate_draws_several_captions_and_seeds_on_one_sheet(folder, tmp_path, capsys):
    generate.main(["a red circle", "two rings", "--count", "2", "--pipeline", folder, "--steps", "2", "--out", str(tmp_path / "a.png")])
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()[:4]] == [
        "'a red circle', seed 0", "'a red circle', seed 1", "'two rings', seed 0", "'two rings', seed 1"]
    assert size(tmp_path / "a.png")[0] > 4 * 128


def test_edit_shows_source_edit_and_baseline(folder, tmp_path, capsys):
    edit.main(["replace", "a red circle", "a blue circle", "--pipeline", folder, "--steps", "2", "--cross-steps", "0.1,0.9", "--out", str(tmp_path / "e.png")])
    out = capsys.readouterr().out
    assert all(name in out for name in ("source: ", "edit: ", "same seed, new prompt: "))
    assert size(tmp_path / "e.png")[0] > 3 * 256


def test_demo_writes_its_three_pictures(folder, tmp_path, capsys):
    demo.main(["--pipeline", folder, "--out", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["caption.png", "captions.png", "edit.png"]
    assert size(tmp_path / "caption.png") == (256, 256)
    assert "s in all" in capsys.readouterr().out


def test_evaluate_reports_and_the_card_repeats_its_numbers(folder, tmp_path, capsys):
    report = f"{folder}/report.json"
    evaluate.main(["--pipeline", folder, "--n", "2", "--edits", "1", "--steps", "2", "--categories", "one object", "texture", "--out", report])
    with open(report) as file:
        values = json.load(file)
    assert list(values["text_alignment"]) == ["one object", "texture"] and len(values["edits"]) == 4
    assert all(row["n"] == 2 and row["low"] <= row["accuracy"] <= row["high"] for row in values["text_alignment"].values())
    assert size(f"{folder}/report.png")[0] > 0
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{card.BEGIN}\nold\n{card.END}\nafter\n")
    card.main(["--pipeline", folder, "--readme", str(readme)])
    row = values["text_alignment"]["texture"]
    expected = f"| texture | {row['right']} of 2 |"
    assert expected in readme.read_text() and readme.read_text().startswith("before\n") and readme.read_text().endswith("\nafter\n")
    assert "old" not in readme.read_text()
    with open(f"{folder}/README.md") as file:
        assert expected in file.read()


def test_training_both_stages_then_assembling_gives_a_pipeline_that_draws(encoder_folder, tmp_path):
    common = ["--preset", "tiny", "--text-encoder", str(encoder_folder), "steps=2", "batch_size=2", "sample_every=2", "log_every=1"]
    for name in PRESETS["tiny"]:
        train.main(["--stage", name, "--output-dir", str(tmp_path / name), *common])
        assert size(tmp_path / name / "samples_00000002.png")[0] > 0
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 2] and 0 <= lines[-1]["score"] <= 1
    progress.main([str(tmp_path / "base" / "stage"), "--text-encoder", str(encoder_folder), "--n", "1", "--out", str(tmp_path / "p.png")])
    assert size(tmp_path / "p.png")[0] > 0
    assemble.main(["--base", str(tmp_path / "base"), "--sr", str(tmp_path / "sr_256"), "--text-encoder", str(encoder_folder), "--half",
                   "--out", str(tmp_path / "pipe")])
    generate.main(["a red circle", "--pipeline", str(tmp_path / "pipe"), "--steps", "1", "--out", str(tmp_path / "a.png")])
    assert size(tmp_path / "a.png") == (256, 256)


def test_training_may_start_from_the_weights_of_a_stage(encoder_folder, tmp_path):
    common = ["--stage", "base", "--preset", "tiny", "--text-encoder", str(encoder_folder), "batch_size=2", "sample_every=0"]
    train.main([*common, "--output-dir", str(tmp_path / "first"), "steps=3"])
    train.main([*common, "--output-dir", str(tmp_path / "second"), "--init-from", str(tmp_path / "first" / "stage"), "steps=1", "learning_rate=0.0"])
    first, second = (load_stage(tmp_path / name / "stage").net.state_dict() for name in ("first", "second"))
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("script, arguments", [(generate, ["a ring", "--pipeline", "nowhere"]), (evaluate, ["--pipeline", "nowhere"])])
def test_a_pipeline_that_is_not_there_is_named(script, arguments):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        script.main(arguments)


@pytest.mark.parametrize("script", [generate, edit, evaluate, demo, train, assemble, card, progress])
def test_every_script_has_help(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    assert stop.value.code == 0 and len(capsys.readouterr().out) > 200
