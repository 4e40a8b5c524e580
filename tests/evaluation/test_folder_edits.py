"""Swaps of a value: which pairs of images are found, and what counts as made and kept."""

import json

import pytest
import torch
from PIL import Image

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.metadata import NO_VALUE
from imagen_mini.evaluation.edit_comparison import METHODS
from imagen_mini.evaluation.folder_classifier import FolderClassifier, save_folder_classifier
from imagen_mini.evaluation.folder_edits import (
    ValueSwap,
    find_value_swaps,
    score_value_swaps,
    swapped,
)
from sample import edit_folder
from train.folder_card import edit_tables

TONES = ("light", "dark", "medium-dark", "medium-light")
CAPTIONS = {f"elf, {tone} tone": tone for tone in TONES} | {
    "traffic light, dark tone": "dark",  # light once: no pair, as "traffic dark, ..." is none
    "traffic light, light tone": "light",  # light twice
    "sun": NO_VALUE,
}


def test_a_pair_differs_in_one_value_of_as_many_words_and_both_images_are_there():
    labels = [{"tone": (tone,)} for tone in CAPTIONS.values()]
    found = find_value_swaps(list(CAPTIONS), labels, "tone", n=10)
    pairs = {swap.values for swap in found if "elf" in swap.captions[0]}
    assert pairs == {
        *(("light", "dark"), ("dark", "light")),
        *(("medium-dark", "medium-light"), ("medium-light", "medium-dark")),
    }
    others = [swap.captions for swap in found if "elf" not in swap.captions[0]]
    assert others == [("traffic light, dark tone", "traffic light, light tone")]
    for swap in found:
        assert swap.captions == tuple(list(CAPTIONS)[i] for i in (swap.source, swap.target))
    assert find_value_swaps(list(CAPTIONS), labels, "tone", 2) == found[:2]
    with pytest.raises(ValueError, match="no two captions differ in the value of 'style' alone"):
        find_value_swaps(list(CAPTIONS), labels, "style", 2)


def test_a_value_is_swapped_where_it_is_a_whole_word_and_there_once():
    assert swapped("elf, light tone", "light", "dark") == "elf, dark tone"
    assert swapped("elf, medium-light tone", "light", "dark") is None
    assert swapped("a light elf, light tone", "light", "dark") is None
    assert swapped("elf, light tone", "light", "medium-dark") is None


class Judge:
    """Reads an image's tone from its first channel, and its style from its second one."""

    classes = {"tone": ("light", "dark"), "style": ("noto", "fluent")}

    def recognize(self, images):
        return [
            {
                name: values[int(image[channel].mean() < 0)]
                for channel, (name, values) in enumerate(self.classes.items())
            }
            for image in images
        ]


def test_an_edit_is_made_by_the_new_value_and_keeps_what_is_read_of_the_rest():
    def image(tone, style):
        return torch.stack([torch.full((4, 4), v) for v in (tone, style, 0.0)])

    swap = ValueSwap(0, 1, ("elf, light tone", "elf, dark tone"), ("light", "dark"))
    sources = torch.stack([image(1.0, 1.0)] * 3 + [image(-1.0, 1.0)])  # the last one is wrong
    edits = torch.stack([image(-1.0, 1.0), image(-1.0, -1.0), image(1.0, 1.0), image(-1.0, 1.0)])
    row = score_value_swaps(Judge(), "tone", [swap] * 4, sources, edits)
    assert {key: row[key] for key in ("n", "made", "kept", "both")} == {
        **{"n": 3, "made": 2, "kept": 2, "both": 1}
    }
    assert row["low"] < 1 / 3 < row["high"]
    assert row["changed"] == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)


def test_the_script_scores_all_methods_and_the_true_images(encoder, tmp_path, capsys):
    folder = tmp_path / "elves"
    (folder / "train").mkdir(parents=True)
    rows = []
    for style in ("noto", "fluent"):
        for tone in ("light", "dark"):
            name = f"{style}-{tone}.png"
            Image.new("RGB", (64, 64), "white" if tone == "light" else "brown").save(
                folder / "train" / name
            )
            row = {"file_name": name, "text": f"elf, {style} style, {tone} tone"}
            rows.append(row | {"style": style, "tone": tone})
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    torch.manual_seed(0)
    ImagenPipeline(encoder, [DiffusionStage(PRESETS["tiny"]["base"])]).save_pretrained(
        tmp_path / "pipe"
    )
    judge = FolderClassifier({"style": ("noto", "fluent"), "tone": ("light", "dark")}, 32)
    (tmp_path / "judge").mkdir()
    save_folder_classifier(judge, tmp_path / "judge")
    command = ["--pipeline", str(tmp_path / "pipe"), "--data", str(folder), "--n", "3"]
    command += ["--out", str(tmp_path / "edits.json")]
    edit_folder.main([*command, "--classifier", str(tmp_path / "judge"), "--column", "tone"])
    report, said = json.loads((tmp_path / "edits.json").read_text()), capsys.readouterr().out
    assert list(report["methods"]) == [*METHODS, edit_folder.TRUE] and report["edits"] == 3
    assert "3 pairs of 4 images whose captions differ in tone alone" in said
    assert report["methods"][edit_folder.TRUE]["changed"] > 0.2  # white to brown
    assert (tmp_path / "edits.png").is_file()
    (tmp_path / "pipe" / "edits_tone.json").write_text((tmp_path / "edits.json").read_text())
    row = report["methods"][edit_folder.TRUE]
    cells = " | ".join(f"{row[key]} of {row['n']}" for key in ("made", "kept", "both"))
    assert f"| {edit_folder.TRUE} | {cells} |" in (card := edit_tables(tmp_path / "pipe"))
    shown = card.replace(" \\\n       ", "")  # the command in one line
    assert "--column tone" in shown and "--n 3 --out edits_tone.json" in shown
    for more, message in (
        (["--column", "tone"], "expected --data FOLDER and --classifier FOLDER"),
        (["--classifier", str(tmp_path / "judge"), "--column", "age"], "tells style, tone"),
    ):
        with pytest.raises(SystemExit):
            edit_folder.main([*command, *more])
        assert message in capsys.readouterr().err
