"""Scores on a folder, by pipelines of which the right value is known."""

import json

import pytest
import torch
from PIL import Image, ImageDraw

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.evaluation.folder_score import (
    caption_use,
    compare_with_true,
    memorised,
    small_pixels,
)
from sample import evaluate, evaluate_folder
from sample.evaluate_folder import groups

COLORS = ("red", "green", "blue", "white", "black", "yellow", "purple", "orange")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Plain colours with their names: 40 to train on, 16 in a split of their own."""
    root = tmp_path_factory.mktemp("folder") / "colours"
    for split, n in (("train", 40), ("test", 16)):
        (root / split).mkdir(parents=True)
        rows = []
        for i in range(n):
            image = Image.new("RGB", (64, 64), COLORS[i % 8])
            ImageDraw.Draw(image).rectangle((i, i, i + 8, i + 8), "gray")
            image.save(root / split / f"{i}.png")
            row = {"file_name": f"{i}.png", "text": f"{COLORS[i % 8]} number {i} of {split}"}
            rows.append(row | ({"split_reason": f"kind {i % 3}"} if split == "test" else {}))
        (root / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


class KnowsByCaption(torch.nn.Module):
    """A network that predicts x_0 as the plain colour of the caption, and gray without one."""

    def __init__(self, encoder):
        super().__init__()
        self.out = torch.nn.Conv2d(1, 1, 1)
        self.words = {name: encoder([name]).emb[0, 0] for name in COLORS}
        pixels = [torch.tensor(Image.new("RGB", (1, 1), c).getpixel((0, 0))) for c in COLORS]
        self.colors = torch.stack(pixels) / 127.5 - 1

    def forward(self, x_t, log_snr, text, low_res=None, aug_level=None, **more):
        known = torch.stack(list(self.words.values()))
        found = torch.cdist(text.emb[:, 0], known).argmin(1)
        color = self.colors[found] * text.mask.any(1)[:, None]
        return color[:, :, None, None].expand_as(x_t)


class FirstWord:
    """An encoder whose first token tells the first word alone."""

    def __init__(self, encoder):
        self.encoder = encoder

    def __call__(self, prompts):
        return self.encoder([prompt.split()[0] for prompt in prompts])


def stage_that(net):
    stage = DiffusionStage(PRESETS["tiny"]["base"])
    stage.config = stage.config.__class__(**{**vars(stage.config), "prediction": "x_0"})
    stage.net = net
    return stage.eval()


def test_a_network_that_reads_captions_loses_most_by_another_ones(folder, encoder):
    data = ImageFolderDataset(folder, (64,), progress=False, part="held_out")
    encoder = FirstWord(encoder)
    found = caption_use(stage_that(KnowsByCaption(encoder)), encoder, data, range(16))
    assert found["another"] > found["none"] > 1 and found["another_se"] < found["another"]


def test_a_network_that_does_not_read_loses_nothing(folder, encoder):
    class Deaf(KnowsByCaption):
        def forward(self, x_t, *rest, **more):
            return torch.zeros_like(x_t)

    data = ImageFolderDataset(folder, (64,), progress=False)
    found = caption_use(stage_that(Deaf(encoder)), encoder, data, range(16))
    assert found["another"] == found["none"] == 0 and found["loss"] > 0


def images_of(n, seed):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_copies_are_found_and_new_images_are_not_taken_for_them():
    def low(n, seed):  # noise that survives the reduction
        noise = torch.nn.functional.interpolate(images_of(n, seed)[..., :16, :16], size=(64, 64))
        return small_pixels(noise)

    train, unseen, new = low(300, 0), low(100, 1), low(100, 2)
    copies = train[torch.arange(50) * 3] + 0.001
    found, which = memorised(copies, unseen, train)
    assert found["nearer"] == 1 and which.tolist() == [3 * i for i in range(50)]
    found, _ = memorised(new, unseen, train)
    assert found["nearer"] < 0.15 and abs(found["generated"] / found["unseen"] - 1) < 0.05


def test_distributions_are_compared_by_the_features_that_are_given():
    true = images_of(60, 0)
    same = compare_with_true(true, true, lambda x: x.mean((2, 3)))
    other = compare_with_true(true * 0.1 + 0.8, true, lambda x: x.mean((2, 3)))
    assert abs(same["frechet"]) < 1e-6 and same["precision"] == same["recall"] == 1
    assert other["frechet"] > 1 and other["precision"] == other["recall"] == 0


def test_distances_of_training_images_stand_beside_those_of_generated_ones(
    folder, encoder, tmp_path, capsys, monkeypatch
):
    torch.manual_seed(0)
    pipe = ImagenPipeline(encoder, [DiffusionStage(PRESETS["tiny"]["base"])])
    pipe.save_pretrained(tmp_path / "pipe")
    monkeypatch.setattr(
        evaluate_folder, "make_feature_extractor", lambda name: lambda x: x.mean((2, 3))
    )
    out = tmp_path / "report.json"
    evaluate.main(
        [
            *("--pipeline", str(tmp_path / "pipe"), "--steps", "1", "--out", str(out), "--n", "8"),
            *("--data", str(folder), "--features", "means"),
        ]
    )
    found = json.loads(out.read_text())["distribution"]
    train = ImageFolderDataset(folder, (64,), progress=False).batch(range(8), 64).images
    apart = ImageFolderDataset(folder, (64,), progress=False, part="held_out")
    expected = compare_with_true(train, apart.batch(range(8), 64).images, lambda x: x.mean((2, 3)))
    assert found["training"] == pytest.approx(expected) and found["frechet"] >= 0
    assert "as many training images: Fréchet distance" in capsys.readouterr().out


def test_groups_are_those_of_the_metadata(folder):
    apart = ImageFolderDataset(folder, (64,), progress=False, part="held_out")
    found = groups(apart, 16)
    assert sorted(found) == ["all", "kind 0", "kind 1", "kind 2"]
    assert sorted(i for kind, of in found.items() if kind != "all" for i in of) == found["all"]
    for i in found["kind 1"]:
        assert int(apart.batch([i], 64).captions[0].split()[2]) % 3 == 1
    train = ImageFolderDataset(folder, (64,), progress=False)
    assert list(groups(train, 16)) == ["all"]


def test_evaluate_scores_a_pipeline_on_the_split_held_out(folder, encoder, tmp_path, capsys):
    torch.manual_seed(0)
    pipe = ImagenPipeline(encoder, [DiffusionStage(PRESETS["tiny"]["base"])])
    pipe.save_pretrained(tmp_path / "pipe")
    out = tmp_path / "report.json"
    common = ["--pipeline", str(tmp_path / "pipe"), "--steps", "1", "--out", str(out)]
    evaluate.main([*common, "--data", str(folder), "--n", "12"])
    said, report = capsys.readouterr().out, json.loads(out.read_text())
    assert "12 of 16 images" in said and "held out of training" in said
    assert report["held_out"] and report["data"]["part"] == "held_out"
    assert set(report["caption_use"]) == {"all", "kind 0", "kind 1", "kind 2"}
    assert 0 <= report["nearest"]["nearer"] <= 1 and "NaN" not in out.read_text()
    with Image.open(tmp_path / "report.png") as image:
        assert image.width > 8 * 128 and image.height > 3 * 128
    evaluate.main([*common, "--data", str(folder / "train"), "--n", "4"])
    assert "that it may be trained on" in capsys.readouterr().out
    assert "nearest" not in json.loads(out.read_text())
    with pytest.raises(SystemExit):
        evaluate.main([*common, "--features", "inception"])
    assert "--features is for a folder: name it with --data" in capsys.readouterr().err
