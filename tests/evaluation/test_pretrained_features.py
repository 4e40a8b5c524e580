"""Features that papers use: torchmetrics' Fréchet distance as an oracle, and a small CLIP from a
folder.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizerFast

from imagen_mini.evaluation import pretrained_features as other_features
from imagen_mini.evaluation.metrics import frechet_distance, gaussian_statistics
from imagen_mini.evaluation.pretrained_features import (
    CLIP_MEAN,
    CLIP_STD,
    Clip,
    make_feature_extractor,
)
from imagen_mini.evaluation.scene_features import WIDTH, features
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import training_scene
from imagen_mini.utils.images import to_pil
from sample import distribution_metrics as distances


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP with random weights, of letters alone."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = {
        token: i
        for i, token in enumerate(
            [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
        )
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    torch.manual_seed(0)
    layers = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 8,
    }
    ends = {
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }
    config = CLIPConfig(
        text_config=layers | {"vocab_size": len(vocabulary), "max_position_embeddings": 20} | ends,
        vision_config=layers | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def images():
    return render([training_scene(0, i) for i in range(60)], 64)


def test_the_frechet_distance_is_that_of_torchmetrics_on_the_same_features(images):
    """On features of two sets of scenes, one of them recoloured by turning its channels, and on
    features that are passed through unchanged.
    """
    fid = pytest.importorskip("torchmetrics.image.fid")
    found = features(images[:30]), features(images[30:].roll(1, dims=1))
    wide = (
        torch.randn(200, 24, generator=torch.Generator().manual_seed(0)),
        1.5
        + torch.randn(150, 24, generator=torch.Generator().manual_seed(1))
        * torch.arange(1, 25)
        / 9,
    )
    # 30 images of 48 features: singular covariances, where the general root is less exact
    for (a, b), tolerance in ((wide, 1e-5), (found, 1e-3)):
        same = nn.Identity()
        same.num_features = a.shape[1]
        theirs = fid.FrechetInceptionDistance(feature=same).set_dtype(torch.float64)
        theirs.update(a.double(), real=True)
        theirs.update(b.double(), real=False)
        assert frechet_distance(*gaussian_statistics(a), *gaussian_statistics(b)) == pytest.approx(
            theirs.compute().item(), rel=tolerance
        )


def test_scenes_are_the_features_of_our_own_classifier(images):
    assert torch.equal(
        make_feature_extractor("scenes")(images[:3]), features(images[:3])
    ) and features(images[:3]).shape == (3, WIDTH)


def test_clip_s_score_is_what_its_own_model_says_of_images_that_pillow_has_made_smaller(
    clip_folder, images
):
    clip = Clip(clip_folder)
    small = torch.stack(
        [
            torch.from_numpy(np.array(p.resize((32, 32), Image.Resampling.BICUBIC))).permute(
                2, 0, 1
            )
            / 255
            for p in to_pil(images[:5])
        ]
    )
    inputs = (small - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[
        :, None, None
    ]
    with torch.no_grad():
        logits = clip.model(
            input_ids=clip.tokenizer(["a ring"], return_tensors="pt").input_ids, pixel_values=inputs
        ).logits_per_image[:, 0]
    ours = clip.score(images[:5], ["a ring"] * 5)
    theirs = (100 * logits / clip.model.logit_scale.exp()).clamp(min=0)
    # pixels are rounded there
    assert clip(images[:5]).shape == (5, 8) and torch.allclose(ours, theirs, atol=0.5)
    assert torch.allclose(clip(images[:5]), clip(images[:5], batch=2), atol=1e-5)


def test_clip_s_score_is_of_each_image_and_its_text_and_long_texts_are_cut(clip_folder, images):
    clip = Clip(clip_folder)
    texts = ["a ring", "a star above a blue square", "word " * 100]
    assert torch.allclose(
        clip.score(images[:3], texts),
        torch.cat([clip.score(images[i : i + 1], texts[i : i + 1]) for i in range(3)]),
        atol=1e-3,
    )
    with pytest.raises(ValueError, match="2 images and 3 texts"):
        clip.score(images[:2], texts)


def test_distances_by_clip_give_its_score_too(clip_folder, tiny_pipe, tmp_path, capsys):
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    distances.main(
        [
            "--pipeline",
            str(tmp_path / "pipe"),
            "--n",
            "6",
            "--true",
            "8",
            "--scales",
            "1",
            "--thresholds",
            "static",
            "--features",
            f"clip:{clip_folder}",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    report = json.loads((tmp_path / "out" / "distances.json").read_text())
    assert (
        report["features"] == f"clip:{clip_folder}"
        and 0 <= report["lines"]["static"][0]["clip_score"] <= 100
    )
    assert "CLIP score" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "distances.png") as chart:
        assert chart.width > 500


@pytest.mark.parametrize(
    "which, message",
    [
        ("vgg", "expected scenes, studio, inception"),
        ("clip", "expected scenes, studio, inception"),
        ("clip:/nowhere", "/nowhere"),
    ],
)
def test_features_that_are_not_there_are_an_error_that_says_what_may_be_asked_for(
    which, message, capsys
):
    with pytest.raises(SystemExit):
        distances.main(["--features", which, "--n", "4"])
    assert f"--features {which}" in (error := capsys.readouterr().err) and message in error


def test_inception_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "imagen_mini\[metrics\]"'):
        other_features.make_feature_extractor("inception")


def test_inception_is_given_bytes_of_the_whole_range_in_batches(monkeypatch, images):
    """Its weights are not here: the network is a mean, which tells what reaches it."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    given = []

    class Mean(nn.Module):
        def __init__(self, name, features, weights):
            super().__init__()
            given.append((name, features, weights))

        def forward(self, x):
            given.append((x.dtype, len(x), x.min().item(), x.max().item()))
            return x.double().mean((2, 3))

    monkeypatch.setitem(
        __import__("sys").modules,
        "torch_fidelity",
        __import__("types").ModuleType("torch_fidelity"),
    )
    monkeypatch.setattr(fid, "NoTrainInceptionV3", Mean)
    black_to_white = torch.linspace(-1.2, 1.2, 3 * 8 * 8).view(1, 3, 8, 8).expand(40, -1, -1, -1)
    found = make_feature_extractor("inception:weights.pth")(black_to_white)
    assert given == [
        ("inception-v3-compat", ["2048"], "weights.pth"),
        (torch.uint8, 32, 0, 255),
        (torch.uint8, 8, 0, 255),
    ] and found.shape == (40, 3)
