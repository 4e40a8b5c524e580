"""A recipe trains all stages, goes on after an interruption, and ends with a pipeline."""

import json
import shlex
from dataclasses import replace

import pytest
import torch
from PIL import Image

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.serialization import save_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.datasets import open_dataset
from imagen_mini.training.checkpoint import checkpoints
from imagen_mini.weights import WEIGHTS
from train import cascade, sample_timeline
from train import train as train_script

SETTINGS = "batch_size=2 warmup=1 sample_every=0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rows = []
    for i in range(4):
        Image.new("RGB", (256, 256), ("red", "blue", "green", "white")[i]).save(root / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": f"plain image {i}"})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def run(folder, out, *options, steps=2):
    settings = [
        f"{s}.{t}" for s in ("base", "sr_256") for t in (f"steps={steps} " + SETTINGS).split()
    ]
    threads = torch.get_num_threads()
    try:
        cascade.main(
            [
                *("emoji", "--data", str(folder), "--output-dir", str(out), "--preset", "tiny"),
                *("--text-encoder", str(WEIGHTS / "text_encoder"), "--device", "cpu"),
                *(*settings, *options),
            ]
        )
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow  # seconds: two stages
def test_a_stopped_recipe_goes_on_where_it_was_and_trains_nothing_twice(
    folder, tmp_path, capsys, monkeypatch
):
    calls, whole = [], train_script.main
    monkeypatch.setattr(
        train_script, "main", lambda options: (calls.append(options), whole(options))
    )
    # 1. no time: one step of the first stage, and a pipeline of what there is
    with pytest.raises(SystemExit, match="base was stopped before its last step, 2; the same"):
        run(folder, tmp_path, "--time-limit", "0")
    assert [path.name for path in checkpoints(tmp_path / "base")] == ["step_00000001"]
    assert list(ImagenPipeline.from_pretrained(tmp_path / "pipeline").stages) == ["base"]
    # 2. the rest of it, then the other stage, and both as a pipeline
    run(folder, tmp_path)
    assert [("--resume" in c, c[1]) for c in calls] == [
        (False, "base"),
        (True, "base"),
        (False, "sr_256"),
    ]
    for stage in ("base", "sr_256"):
        assert checkpoints(tmp_path / stage)[-1].name == "step_00000002"
    pipe = ImagenPipeline.from_pretrained(tmp_path / "pipeline")
    assert list(pipe.stages) == ["base", "sr_256"]
    assert {stage.config.threshold for stage in pipe.stages.values()} == {"static"}
    assert pipe.stages["base"].config.guidance_interval == (0.3, 60.0)
    # 3. nothing is left to do
    run(folder, tmp_path)
    assert len(calls) == 3
    # 4. what it prints is what could be typed by hand
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("sr_256: python"))
    assert shlex.split(line)[4:] == calls[2]


def test_more_steps_go_on_with_the_same_run(folder, tmp_path):
    with pytest.raises(SystemExit, match="stopped before its last step, 2; the same command"):
        run(folder, tmp_path, "--stage", "base", "--time-limit", "0", steps=2)
    assert checkpoints(tmp_path / "base")[-1].name == "step_00000001"
    run(folder, tmp_path, "--stage", "base", steps=2)
    assert checkpoints(tmp_path / "base")[-1].name == "step_00000002"
    assert not (tmp_path / "sr_256").exists()


def test_without_a_preset_stages_start_from_the_recipes_cascade(folder, tmp_path, monkeypatch):
    """Once; a run that has a checkpoint goes on from that, whatever the recipe says."""
    calls = []
    monkeypatch.setattr(train_script, "main", calls.append)
    options = ["emoji", "--data", str(folder), "--output-dir", str(tmp_path), "--device", "cpu"]
    options += ["--text-encoder", str(WEIGHTS / "text_encoder")]
    for there in ([], [tmp_path / "base" / "step_00000001"]):
        monkeypatch.setattr(cascade, "checkpoints", lambda run, there=there: there)
        with pytest.raises(SystemExit, match="base was stopped"):
            cascade.main(options)
    started, resumed = (shlex.join(call) for call in calls)
    assert "--preset mini --init-from studio stage.text_encoder=null stage.unet.text_wid" in started
    assert "--resume" not in started and "--init-from" not in resumed and "--preset" not in resumed
    assert "--resume stage.unet.text_width=128 steps=40000" in resumed


def test_a_run_on_a_folder_is_shown_step_by_step_above_the_true_images(
    folder, tmp_path, monkeypatch
):
    shown = {}
    monkeypatch.setattr(
        sample_timeline,
        "image_table",
        lambda *table, cell: shown.update(table=table) or Image.new("RGB", (cell, cell)),
    )
    for steps in (200, 30):
        train = {"batch_size": 2}
        data = open_dataset(folder, (64,)).describe() | {"held_out": 0.5}
        phases = [{"steps": 9000, "seconds": 600.0, "train": train}]  # on a world, before
        phases += [{"steps": steps, "seconds": 60.0, "train": train, "data": data}]
        stage = DiffusionStage(replace(PRESETS["tiny"]["base"], num_inference_steps=1))
        save_stage(stage, tmp_path / f"at_{steps}", {"training_phases": phases})
    stages = [str(tmp_path / "at_200"), str(tmp_path / "at_30")]
    out = tmp_path / "sheet.png"
    sample_timeline.main([*stages, "--data", str(folder), "--n", "2", "--out", str(out)])
    rows, names, captions = shown["table"]
    assert names == ["step 30, 1 min", "step 200, 1 min", "true"] and out.is_file()
    apart = open_dataset(folder, (64,), held_out=0.5, part="held_out").batch(range(2), 64)
    assert captions == apart.captions and torch.equal(torch.stack(rows[-1]), apart.images)
    assert [len(row) for row in rows] == [2, 2, 2]
