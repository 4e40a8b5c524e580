"""A classifier of the columns of a folder: what counts, and that it learns what can be learnt."""

import json
import random

import pytest
import torch
from PIL import Image, ImageDraw

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.evaluation.folder_classifier import (
    IGNORED,
    FolderClassifier,
    confusions,
    find_classes,
    label_loss,
    label_targets,
    load_folder_classifier,
    score_labels,
)
from sample import evaluate
from sample.evaluate_folder import compare_labels
from train import folder_classifier, model_card
from train.folder_card import mixed_up

CLASSES = {"style": ("thick", "thin"), "tone": ("none", "red")}


def test_classes_are_the_values_that_are_frequent_enough():
    labels = [{"style": ("a",)}] * 60 + [{"style": ("b",)}] * 38 + [{"style": ("c",)}]
    labels += [{"style": ("a", "b")}] * 9 + [{}]  # several values, or none, make no class
    assert find_classes(labels, ["style"]) == {"style": ("a", "b")}
    assert find_classes(labels[:95], ["style"])["style"] == ("a", "b")
    with pytest.raises(ValueError, match="column 'tone' has 0 values .* 2 or more"):
        find_classes(labels, ["style", "tone"])


def test_targets_are_numbers_of_classes_and_what_is_unclear_does_not_count():
    labels = [
        {"style": ("thin",), "tone": ("red",)},
        {"style": ("thick", "thin"), "tone": ("green",)},
        {"tone": ("none",)},
    ]
    targets = label_targets(labels, CLASSES)
    assert targets.tolist() == [[1, 1], [IGNORED, IGNORED], [IGNORED, 0]]
    logits = {"style": torch.zeros(3, 2), "tone": torch.zeros(3, 2)}
    loss = label_loss(logits, targets)
    assert loss == pytest.approx(torch.tensor(2.0).log().item())
    logits["style"][1] = torch.tensor([900.0, -900.0])  # of the image that does not count
    assert label_loss(logits, targets) == loss
    nothing = torch.full_like(targets, IGNORED)
    assert label_loss(logits, nothing) == 0


def test_an_image_is_correct_if_one_of_its_values_is_recognised():
    labels = [
        {"style": ("thin",), "tone": ("none",)},
        {"style": ("thick", "thin"), "tone": ("red",)},
        {"style": ("dotted",), "tone": ("red",)},
        {"style": ("thick",), "tone": ("red",)},
    ]
    told = [{"style": "thin", "tone": "none"}, *[{"style": "thin", "tone": "red"}] * 2]
    told.append({"style": "thin", "tone": "none"})
    found = score_labels(told, labels, CLASSES)
    assert (found["style"]["right"], found["style"]["n"]) == (2, 3)
    assert (found["tone"]["right"], found["tone"]["n"]) == (3, 4)
    assert (found["tone, if named"]["right"], found["tone, if named"]["n"]) == (2, 3)
    assert "style, if named" not in found
    assert found["style"]["low"] < 2 / 3 == found["style"]["share"] < found["style"]["high"]
    assert confusions(told, labels, "tone") == [("red", "none", 1)]
    assert score_labels(told, [{}] * 4, CLASSES)["style"]["n"] == 0


def test_every_parameter_and_every_pixel_counts_at_any_size():
    torch.manual_seed(0)
    net = FolderClassifier(CLASSES, 32)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    sum((x**2).sum() for x in net(images).values()).backward()
    assert all((p.grad != 0).any() for p in net.parameters()) and (images.grad != 0).all()
    large = torch.rand(2, 3, 128, 128)
    assert {name: tuple(x.shape) for name, x in net(large).items()} == {
        "style": (2, 2),
        "tone": (2, 2),
    }
    with pytest.raises(ValueError, match="size 40: expected a multiple of 32"):
        FolderClassifier(CLASSES, 40)


def test_augmented_images_are_a_function_of_the_step_and_stay_images():
    images = torch.rand(8, 3, 64, 64) * 2 - 1
    a, b, c = (folder_classifier.augment(images, step) for step in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.shape == images.shape and a.abs().max() <= 1
    plain = torch.ones(64, 3, 64, 64) * 0.3  # moved and blurred, a plain image stays what it is
    assert (folder_classifier.augment(plain, 0) - 0.3).abs().mean() < 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thick and thin squares on red or blue, of which some are held out."""
    root, rng = tmp_path_factory.mktemp("labelled") / "squares", random.Random(0)
    for split, n in (("train", 120), ("test", 40)):
        (root / split).mkdir(parents=True)
        rows = []
        for i in range(n):
            style, tone = ("thick", "thin")[i % 2], ("red", None)[i // 2 % 2]
            image = Image.new("RGB", (64, 64), tone or "blue")
            x, y = rng.randint(2, 24), rng.randint(2, 24)
            ImageDraw.Draw(image).rectangle(
                (x, y, x + 36, y + 36), outline="white", width=3 if style == "thin" else 18
            )
            image.save(root / split / f"{i}.png")
            row = {"file_name": f"{i}.png", "text": f"square {i} of {split}"}
            row |= {"style": style, "tone": tone, "split_reason": f"kind {i % 2}"}
            rows.append(json.dumps(row))
        (root / split / "metadata.jsonl").write_text("\n".join(rows))
    return root


def test_labels_are_those_of_the_image_in_any_order(folder):
    data = ImageFolderDataset(folder, (64,), progress=False, label_columns=("tone", "style", "x"))
    for i in (0, 7, 119, 300):  # of later epochs, too
        number = int(data.batch([i], 64).captions[0].split()[1])
        assert data.labels(i) == {
            "style": (("thick", "thin")[number % 2],),
            "tone": (("red", "none")[number // 2 % 2],),
        }
    assert ImageFolderDataset(folder, (64,), progress=False).labels(0) == {}


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "classifier"
    options = ["--size", "32", "--steps", "30", "--batch", "10", "--rate", "2e-3"]
    folder_classifier.main(
        ["--data", str(folder), "--columns", "style", "tone", "--out", str(out), *options]
    )
    return out


def test_what_can_be_learnt_is_learnt_and_the_card_says_how_well(trained, folder):
    net, config = load_folder_classifier(trained)
    of_all = config["accuracy"]["all"]
    assert of_all["style"]["n"] == of_all["tone"]["n"] == 40
    assert of_all["tone"]["right"] >= 38 and of_all["style"]["right"] >= 36
    assert set(config["accuracy"]) == {"all", "kind 0", "kind 1"}
    card = (trained / "README.md").read_text()
    row = of_all["style"]
    assert f"| style | all | {row['right']} of 40 | {row['share']:.1%} |" in card
    # and it is the accuracy of what was saved
    apart = ImageFolderDataset(
        folder, (32,), progress=False, part="held_out", label_columns=("style", "tone")
    )
    assert folder_classifier.measure(net, apart)["accuracy"] == config["accuracy"]


def test_generated_images_are_compared_with_what_their_captions_name(trained, folder):
    net, _ = load_folder_classifier(trained)
    data = ImageFolderDataset(
        folder, (32,), progress=False, part="held_out", label_columns=("style", "tone")
    )
    true = data.batch(range(40), 32).images
    found = compare_labels(net, true, true, data)
    assert found["all"]["generated"] == found["all"]["true"]
    assert found["all"]["true"]["tone"]["right"] >= 38
    # with red and blue exchanged every tone is wrong, and no style
    assert sum(n for _, _, n in found["all"]["confused"]["tone"]) <= 2
    exchanged = compare_labels(net, true.flip(1), true, data)["all"]
    counts = {(named, read): n for named, read, n in exchanged["confused"]["tone"]}
    assert f"none for red ({counts['red', 'none']})" in mixed_up(exchanged)
    assert (
        exchanged["generated"]["tone"]["right"] <= 2 and exchanged["true"] == found["all"]["true"]
    )
    assert exchanged["generated"]["style"]["right"] >= 36
    other = ImageFolderDataset(folder, (32,), progress=False, part="held_out")
    with pytest.raises(ValueError, match="none of the columns .* style, tone"):
        compare_labels(net, true, true, other)


def test_evaluate_reports_labels(trained, folder, encoder, tmp_path, capsys):
    torch.manual_seed(0)
    pipe = ImagenPipeline(encoder, [DiffusionStage(PRESETS["tiny"]["base"])])
    pipe.save_pretrained(tmp_path / "pipe")
    out = tmp_path / "report.json"
    common = ["--pipeline", str(tmp_path / "pipe"), "--steps", "1", "--out", str(out)]
    evaluate.main([*common, "--data", str(folder), "--n", "8", "--classifier", str(trained)])
    said, report = capsys.readouterr().out, json.loads(out.read_text())["labels"]
    assert report["all"]["generated"]["style"]["n"] == 8 and "kind 1" in report
    assert report["its_accuracy"]["all"]["style"]["n"] == 40
    assert "generated images correct" in said and "of true images" in said
    # the card: its numbers are those of the report, and those of a younger report stand before
    younger = json.loads(out.read_text())
    younger["training"]["base"]["steps"] = -5
    younger["labels"]["all"]["generated"]["style"]["share"] = 0.125
    (tmp_path / "pipe" / "report_at_5.json").write_text(json.dumps(younger))
    (tmp_path / "pipe" / "report_of_the_cascade.json").write_text(json.dumps(younger))
    out.rename(tmp_path / "pipe" / "report.json")
    model_card.main(["--pipeline", str(tmp_path / "pipe"), "--note", "by hand"])
    card, style = (tmp_path / "pipe" / "README.md").read_text(), report["all"]["generated"]["style"]
    assert f"| style | all | {style['right']} of 8 |" in card and "by hand" in card
    command = card.replace(" \\\n       ", "")  # in one line
    assert "## Score of the cascade" in card and command.count("--n 8 --classifier") == 2
    assert "--n 8 --classifier" in command and "--steps 1" in command and "of width 128" in card
    curve = [line for line in card.splitlines() if line.startswith(("| -5 |", "| 0 |"))]
    assert [line.startswith("| -5 |") for line in curve] == [True, False] and "| 12% |" in curve[0]
    assert f"| {style['share']:.0%} |" in curve[1]
    model_card.main(["--pipeline", str(tmp_path / "pipe")])
    assert (tmp_path / "pipe" / "README.md").read_text() == card
    with pytest.raises(SystemExit):
        evaluate.main([*common, "--classifier", str(trained)])
    assert "--classifier is for a folder" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    command = ["--data", str(folder), "--columns", "style", "--steps", "1"]
    with pytest.raises(ValueError, match="holds something else, thesis.tex, and would be replaced"):
        folder_classifier.main([*command, "--out", str(tmp_path)])
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


def test_what_is_no_classifier_or_cannot_be_tested_is_a_plain_error(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="train.folder_classifier"):
        load_folder_classifier(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="holds no classifier"):
        load_folder_classifier(tmp_path)
    with pytest.raises(ValueError, match="--held-out 0.1"):
        folder_classifier.main(
            ["--data", str(folder / "train"), "--columns", "style", "--out", str(tmp_path / "o")]
        )
