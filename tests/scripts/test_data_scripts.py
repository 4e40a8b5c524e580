"""The scripts for folders of images: checking a folder, training on it, making one of emoji or
from the hub.
"""

import io
import json
import re
import shutil
import sys
import types

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from imagen_mini import ImagenPipeline
from imagen_mini.data.metadata import read_metadata, write_folder
from imagen_mini.training.checkpoint import load_checkpoint
from sample import demo, generate
from sample.cli import check_judged
from train import check_dataset as check_data
from train import download_dataset as from_hub
from train import export_pipeline, make_emoji_dataset, report, train
from train.make_dataset import font as emoji


def read(path):
    with open(path) as file:
        return json.load(file)


def png(size, color="red"):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def images(tmp_path):
    """A folder of six good images."""
    write_folder(
        tmp_path / "my images",
        [(f"{i}.png", png((300, 280 + i), (40 * i, 0, 0)), f"number {i}") for i in range(6)],
    )
    return tmp_path / "my images"


def test_rates_are_measured_beside_the_folder_not_in_it(images, capsys):
    before = sorted(images.rglob("*"))
    check_data.main([str(images), "--rates"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("for ")]
    number = r"([\d,]+)"
    found = [
        re.fullmatch(
            f"for (64|256) px: {number} images a second are .* {number} are read, .*", line
        )
        for line in lines
    ]
    assert [of[1] for of in found] == ["64", "256"]
    assert all(int(of[k].replace(",", "")) > 0 for of in found for k in (2, 3))
    assert sorted(images.rglob("*")) == before


@pytest.mark.parametrize("stage, size", [("base", 64), ("sr_256", 256)])
def test_training_on_a_folder_resumes_on_it_and_says_what_it_was_trained_on(
    encoder_folder, tmp_path, images, capsys, monkeypatch, stage, size
):
    monkeypatch.setattr(train, "SAMPLES", 2)

    def run(*more):
        train.main(
            [
                "--stage",
                stage,
                "--preset",
                "tiny",
                "--output-dir",
                str(tmp_path / "run"),
                "--text-encoder",
                str(encoder_folder),
                *more,
            ]
        )

    run(
        "--data",
        str(images),
        "--time-limit",
        "0",
        "steps=2",
        "batch_size=4",
        "sample_every=2",
        "log_every=1",
    )
    run("--resume")
    assert capsys.readouterr().out.count(f"6 images in {images}") == 2
    _, state, _ = load_checkpoint(tmp_path / "run")
    source = state["data"]
    assert state["step"] == 2 and source.pop("path") == str(images) and source["images"] == 6
    (phase,) = read(tmp_path / "run" / "stage" / "config.json")["training"]["training_phases"]
    assert (
        phase["data"]
        == source
        == {
            "source": "folder",
            "name": "my images",
            "images": 6,
            "fingerprint": source["fingerprint"],
        }
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and not any("score" in line for line in lines)
    assert [file.name for file in (tmp_path / "run").glob("samples_*")] == ["samples_00000002.png"]
    assert sorted(p.stem for p in (images / ".prepared").rglob("*.npy")) == sorted(
        {"64", str(size)}
    )

    (images / "0.png").write_bytes(png((300, 300), "blue"))
    with pytest.raises(SystemExit, match="are not those this run was trained on .*: --data"):
        run("--resume", "steps=3")
    run("--resume", "--data", str(images), "steps=3")
    phases = read(tmp_path / "run" / "stage" / "config.json")["training"]["training_phases"]
    assert [phase["steps"] for phase in phases] == [2, 1] and phases[0]["data"][
        "fingerprint"
    ] != phases[1]["data"]["fingerprint"]


def test_a_run_on_a_folder_remembers_how_it_was_opened(tmp_path, images, capsys):
    """By resume and report: no option has to be named again."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    main = ["--stage", "sr_256", "--output-dir", str(run)]
    settings = ["--data-cache", str(cache), "--fit", "pad", "--background", "#102030"]
    settings += ["--held-out", "0.3", "--skip-broken"]
    (images / "5.png").write_bytes(b"broken")
    (images / "4.png").write_bytes(png((40, 30)))
    numbers = ["batch_size=2", "sample_every=0"]
    train.main([*main, "--preset", "tiny", "--data", str(images), *settings, "steps=1", *numbers])
    said = capsys.readouterr().out
    assert f"3 images in {images}" in said and "held out of training: 2" in said
    assert "warning: 1 of" in said and "smaller than 256 px" in said
    with pytest.raises(SystemExit, match="is a run with --held-out 0.3, not 0.5: resume it withou"):
        train.main([*main, "--resume", "--held-out", "0.5", "steps=2"])
    train.main([*main, "--resume", "--background", "#102030", "steps=2"])
    report.main([str(run), "--n", "4"])
    text = (run / "report.txt").read_text()
    assert f"measured on images of {images} held out of training: 2" in text
    assert not (images / ".prepared").exists()  # none of them has looked there
    (phase,) = read(run / "stage" / "config.json")["training"]["training_phases"][1:]
    assert phase["data"]["fit"] == "pad" and phase["data"]["held_out"] == 0.3


def test_a_pipeline_of_a_folder_is_exported_with_its_text_encoder_and_not_judged(
    encoder_folder, tmp_path, images, capsys
):
    mine, run, pipe = (str(tmp_path / name) for name in ("encoder", "run", "pipe"))
    shutil.copytree(encoder_folder, mine)
    weights = load_file(f"{mine}/model.safetensors")
    save_file({name: w * 1.01 for name, w in weights.items()}, f"{mine}/model.safetensors")
    numbers = ["steps=1", "batch_size=2", "sample_every=0"]
    named = ["--data", str(images), "--text-encoder", mine]
    train.main(["--stage", "base", "--preset", "tiny", "--output-dir", run, *named, *numbers])
    export_pipeline.main(["--base", run, "--out", pipe])
    capsys.readouterr()
    generate.main(
        ["number 3", "--pipeline", pipe, "--steps", "1", "--out", str(tmp_path / "a.png")]
    )
    assert "not judged" not in (out := capsys.readouterr().out) and "a.png: base" in out
    assert ImagenPipeline.from_pretrained(pipe).own_images
    assert not ImagenPipeline.from_pretrained("scenes").own_images
    with pytest.raises(SystemExit, match=f"sample.generate --pipeline {pipe} CAPTION"):
        demo.main(["--pipeline", pipe, "--out", str(tmp_path / "demo")])
    check_judged(ImagenPipeline.from_pretrained(pipe), ["base"])
    assert "judged as of the world scenes" in capsys.readouterr().err


def test_training_on_a_folder_with_a_broken_image_stops_or_leaves_it_out(
    encoder_folder, tmp_path, capsys
):
    write_folder(
        tmp_path / "p", [(f"{i}.png", png((64, 64)) if i else b"", str(i)) for i in range(100)]
    )
    arguments = [
        "--stage",
        "base",
        "--preset",
        "tiny",
        "--output-dir",
        str(tmp_path / "run"),
        "--text-encoder",
        str(encoder_folder),
        "--data",
        str(tmp_path / "p"),
        "--data-cache",
        str(tmp_path / "cache"),
        "steps=1",
        "batch_size=2",
        "sample_every=0",
    ]
    with pytest.raises(SystemExit, match="0.png .0 bytes. is no image"):
        train.main(arguments)
    train.main([*arguments, "--skip-broken"])
    assert "99 images in" in (out := capsys.readouterr().out) and "1 broken ones left out" in out
    assert not (tmp_path / "p" / ".prepared").exists() and list(
        (tmp_path / "cache").rglob("64.npy")
    )


def test_a_stage_and_a_text_encoder_that_do_not_fit_are_an_error_that_says_how(
    encoder_folder, tmp_path
):
    with pytest.raises(
        SystemExit,
        match="returns text of width 128, the stage takes 64; for a new stage, add "
        "stage.unet.text_width=128",
    ):
        train.main(
            [
                "--stage",
                "base",
                "--preset",
                "tiny",
                "--output-dir",
                str(tmp_path),
                "--text-encoder",
                str(encoder_folder),
                "stage.unet.text_width=64",
            ]
        )


def test_check_data_finds_nothing_wrong_with_a_good_folder_and_generates_it(
    images, tmp_path, capsys
):
    check_data.main([str(images), "--picture", str(tmp_path / "new" / "sheet.png")])
    out = capsys.readouterr().out
    assert (
        "0 problems\n0 notes\n6 images, 6 captions" in out and "256 to 511 px        6 #####" in out
    )
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width > 6 * 128


def test_check_data_reports_everything_that_is_wrong(images, capsys):
    for name, content in (
        ("small.png", png((40, 400))),
        ("again.png", (images / "0.png").read_bytes()),
        ("broken.png", png((9, 9))[:50]),
        ("extra.png", png((9, 9))),
    ):
        (images / name).write_bytes(content)
    rows = [
        {"file_name": "small.png", "text": "a"},
        {"file_name": "again.png", "text": ["b", "word " * 200]},
        {"file_name": "broken.png", "text": "c"},
        {"file_name": "gone.png", "text": "d"},
        {"file_name": "1.png", "text": ""},
        {"file_name": "../x.png", "text": "e"},
    ]
    with open(images / "metadata.jsonl", "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    with pytest.raises(SystemExit) as stop:
        check_data.main([str(images)])
    assert stop.value.code == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    problems, notes = lines.index("5 problems:"), lines.index("5 notes:")
    expected_problems = (
        "metadata.jsonl line 10: file_name 'gone.png' is not there",
        "metadata.jsonl line 11: the caption is empty",
        "metadata.jsonl line 12: file_name '../x.png' leads out",
        "metadata.jsonl line 13: no JSON",
        f"metadata.jsonl line 9: {images}/broken.png",
    )
    expected_notes = (
        "line 7, small.png: 40 x 400 px; would be enlarged to 64",
        "line 7, small.png: 40 x 400 px; only its central square",
        "line 8, again.png: the caption has 201 tokens; what",
        "line 8, again.png: the same pixels as line 1, 0.png",
        "extra.png: no row",
    )
    for found, expected in zip(
        sorted(lines[problems + 1 : notes]) + lines[notes + 1 : notes + 6],
        expected_problems + expected_notes,
        strict=True,
    ):
        assert found.startswith(expected)
    assert "8 images, 9 captions; the shorter sides:" in lines


def test_check_data_of_no_folder_says_what_is_expected(tmp_path):
    with pytest.raises(SystemExit, match="has no metadata.jsonl; expected"):
        check_data.main([str(tmp_path)])
    (tmp_path / "metadata.jsonl").touch()
    with pytest.raises(SystemExit, match="1"):
        check_data.main([str(tmp_path)])


def test_emoji_are_symbols_with_names_in_lower_case():
    names = emoji.emoji_names([0x1F600, 0x41, 0x31, 0x1F1E6, 0x1F3FB, 0x200D, 0x10FFFF, 0x2603])
    assert names == {"\u2603": "snowman", "\U0001f600": "grinning face"}


def test_without_an_emoji_font_there_is_an_error_that_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "matplotlib.font_manager.findSystemFonts", lambda: ["/fonts/DejaVuSans.ttf"]
    )
    with pytest.raises(SystemExit, match="apt install fonts-noto-color-emoji.*--font"):
        make_emoji_dataset.main(["--out", str(tmp_path / "e")])
    (tmp_path / "no.ttf").write_text("no font")
    with pytest.raises(
        SystemExit, match="no.ttf cannot be used: .*expected a font with colour bitmaps"
    ):
        make_emoji_dataset.main(["--out", str(tmp_path / "e"), "--font", str(tmp_path / "no.ttf")])


def test_emoji_of_a_plain_font_are_generated_in_black_on_a_square():
    from matplotlib import get_data_path

    font = emoji.load_font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf")
    image = emoji.render_emoji("\u2603", font)
    assert image.width == image.height and image.getextrema() == ((0, 0), (0, 0), (0, 0), (0, 255))
    assert emoji.render_emoji("\u2800", font) is None  # a blank


def test_the_emoji_of_the_system_become_a_folder_that_passes_its_check(
    tmp_path, capsys, monkeypatch
):
    try:
        emoji.find_font()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    every = emoji.emoji_names
    monkeypatch.setattr(
        emoji,
        "emoji_names",
        lambda code_points: every(set(code_points) & set(range(0x1F600, 0x1F620))),
    )
    make_emoji_dataset.main(["--out", str(tmp_path / "e")])
    check_data.main([str(tmp_path / "e")])
    assert "0 problems\n0 notes" in capsys.readouterr().out
    rows, _ = read_metadata(tmp_path / "e")
    assert len(rows) > 20 and rows[0].captions == ("grinning face",)
    with Image.open(tmp_path / "e" / "1f600.png") as image:
        red, green, blue, _ = image.getpixel((image.width // 2, image.height // 3))
    assert min(red, green) > blue + 50  # yellow


class FakeRows(list):
    """As much of a stream of `datasets` as is used."""

    column_names = ["image", "caption"]

    def cast_column(self, name, to):
        assert to == {"decode": False}
        return self


def test_images_of_the_hub_are_written_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "b.png").write_bytes(png((8, 8), "blue"))
    rows = FakeRows(
        [
            {"image": {"bytes": png((8, 8)), "path": "a.jpg"}, "caption": "red"},
            {"image": {"bytes": None, "path": str(tmp_path / "b.png")}, "caption": ["blue", "b"]},
            {"image": None, "caption": "not wanted"},
        ]
    )
    fake = types.SimpleNamespace(
        Image=lambda **options: options,
        load_dataset=lambda name, **options: (
            rows if (name, options) == ("a/b", {"split": "test", "streaming": True}) else None
        ),
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    from_hub.main(
        [
            "a/b",
            "--split",
            "test",
            "--text",
            "caption",
            "--limit",
            "2",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    found, problems = read_metadata(tmp_path / "out")
    assert problems == [] and [(row.name, row.captions) for row in found] == [
        ("00000000.jpg", ("red",)),
        ("00000001.png", ("blue", "b")),
    ]
    assert [row.path.read_bytes() for row in found] == [png((8, 8)), png((8, 8), "blue")]
    with pytest.raises(ValueError, match="a/b has no column text; it has image, caption"):
        from_hub.download_dataset("a/b", tmp_path / "other", split="test")


def fake_datasets(monkeypatch, rows):
    fake = types.SimpleNamespace(
        Image=lambda **options: options, load_dataset=lambda name, **options: FakeRows(rows)
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)


def test_rows_of_the_hub_without_image_or_caption_are_left_out_and_counted(
    tmp_path, monkeypatch, capsys
):
    image = {"bytes": png((8, 8)), "path": "a.png"}
    captions = ["one", None, "", " ", ["two", None, ""], [], "three"]
    rows = [{"image": image, "caption": caption} for caption in captions]
    rows.insert(3, {"image": None, "caption": "no image"})
    rows.insert(3, {"image": {"bytes": None, "path": None}, "caption": "no image"})
    fake_datasets(monkeypatch, rows)
    from_hub.main(["a/b", "--text", "caption", "--out", str(tmp_path / "out"), "--limit", "3"])
    out = capsys.readouterr().out
    assert "3 images in" in out
    assert "2 rows without an image left out" in out
    assert "4 rows without a caption left out" in out
    found, problems = read_metadata(tmp_path / "out")
    assert problems == [] and [row.captions for row in found] == [("one",), ("two",), ("three",)]
    fake_datasets(monkeypatch, rows[1:3])
    with pytest.raises(SystemExit, match="no row of the split train has an image and a caption"):
        from_hub.main(["a/b", "--text", "caption", "--out", str(tmp_path / "none")])


def test_a_download_that_was_interrupted_goes_on_where_it_stopped(tmp_path, monkeypatch):
    rows = [
        {"image": {"bytes": png((8, 8)), "path": "a.png"}, "caption": f"number {i}"}
        for i in range(6)
    ]
    arguments = ["a/b", "--text", "caption", "--out", str(tmp_path / "out")]
    lost = {"image": {"bytes": None, "path": str(tmp_path / "unreachable")}, "caption": "x"}
    fake_datasets(monkeypatch, [*rows[:3], lost])
    with pytest.raises(SystemExit, match="unreachable"):
        from_hub.main(arguments)
    with open(tmp_path / "out" / ".metadata.jsonl", "a") as file:
        file.write('{"file_name": "0000')  # as a kill leaves it
    fake_datasets(monkeypatch, [{"image": None}] * 3 + rows[3:])  # the first are not read again
    with pytest.raises(SystemExit, match="a part of something else"):
        from_hub.main([*arguments, "--split", "test"])
    from_hub.main(arguments)
    found, problems = read_metadata(tmp_path / "out")
    assert problems == []
    assert [row.captions for row in found] == [(f"number {i}",) for i in range(6)]
    with pytest.raises(SystemExit, match="not empty"):
        from_hub.main(arguments)


def test_without_datasets_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SystemExit, match=r"pip install -e \"\.\[hub\]\""):
        from_hub.main(["a/b", "--out", str(tmp_path / "out")])


def test_check_data_names_the_form_and_the_column_of_captions(images, capsys):
    """An image whose row has a bad caption is named by that row."""
    (images / "metadata.jsonl").unlink()
    lines = ["image,says,more"] + [f"{i}.png,{'' if i == 2 else f'the {i}'},x" for i in range(6)]
    (images / "metadata.csv").write_text("\n".join(lines))
    with pytest.raises(SystemExit):
        check_data.main([str(images)])
    assert "--caption-column says?" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        check_data.main([str(images), "--caption-column", "says"])
    out = capsys.readouterr().out
    assert "metadata.csv, captions from 'says'\n1 problem:" in out
    assert "metadata.csv line 4: the caption is empty\n0 notes" in out


def test_check_data_gets_over_links_that_loop(images, capsys):
    (images / "a").symlink_to("b")
    (images / "b").symlink_to("a")
    check_data.main([str(images)])
    assert "a: no row names it" in capsys.readouterr().out
