"""What older versions saved loads for ever: one tiny folder for each version of the format
(tests/golden/make.py made them).
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.pipeline_folder import FORMAT_VERSION
from imagen_mini.training.checkpoint import load_checkpoint, verify_checkpoint
from train.train import main

VERSIONS = sorted(
    p for p in (Path(__file__).parent / "golden").iterdir() if p.is_dir() and p.name.isdigit()
)


def test_there_is_a_folder_for_every_version():
    assert [int(p.name) for p in VERSIONS] == list(range(1, FORMAT_VERSION + 1))


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda p: p.name)
def test_a_pipeline_of_any_version_generates_the_same_image(folder):
    pipe = ImagenPipeline.from_pretrained(folder / "pipeline")
    image = pipe("a red circle", seed=1, output_type="pt", progress=False).images[0]
    facts = json.loads((folder / "facts.json").read_text())
    assert torch.allclose(image.mean((1, 2)), torch.tensor(facts["mean"]), atol=0.02)
    assert torch.allclose(image.std((1, 2)), torch.tensor(facts["std"]), atol=0.02)
    other = pipe("a red circle", seed=2, output_type="pt", progress=False).images[0]
    assert (other - image).abs().mean() > 0.05  # and not the same image for every seed


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda p: p.name)
def test_a_run_of_any_version_resumes(folder, tmp_path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    assert verify_checkpoint(run / "step_00000003") == []
    main(
        [
            "--stage",
            "base",
            "--resume",
            "--output-dir",
            str(run),
            "--text-encoder",
            str(folder / "pipeline" / "text_encoder"),
            "--device",
            "cpu",
            "steps=5",
        ]
    )
    tensors, state, notes = load_checkpoint(run)
    assert state["step"] == 5 and not notes and tensors["optimizer"]
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
    ]
