"""Folders as people keep them: forms of metadata, paths, captions that are missing, and images with
sound pixels and odd blocks around them.
"""

import io
import json
import os
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from imagen_mini.data import prepared
from imagen_mini.data.folder import ImageFolderDataset, epoch_row
from imagen_mini.data.image_io import ImageError, open_rgb, readable_formats
from imagen_mini.data.metadata import describe_form, read_metadata, unlisted
from imagen_mini.utils.images import image_to_tensor

CAPTIONS = {"0.png": "a red circle", "1.png": "ein grüner Kreis, groß", "2.png": "猫"}


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def write(root, files):
    """Write text or bytes to files of a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def images(prefix=""):
    return {
        f"{prefix}{i}.png": encoded(Image.new("RGB", (8, 8), (60 * i, 100, 50))) for i in range(3)
    }


def opened(folder, **options):
    return ImageFolderDataset(folder, (8,), progress=False, **options)


def lines(name="file_name", text="text", prefix=""):
    return [json.dumps({name: prefix + file, text: caption}) for file, caption in CAPTIONS.items()]


def table(name="file_name", text="text", prefix=""):
    return [[name, text]] + [[prefix + file, caption] for file, caption in CAPTIONS.items()]


def cells(rows, separator=",", quote='"'):
    return "\r\n".join(separator.join(f"{quote}{c}{quote}" for c in row) for row in rows)


ROWS = [json.loads(line) for line in lines()]
FORMS = {
    "caption": {"metadata.jsonl": "\n".join(lines(text="caption"))},
    "prompt": {"metadata.jsonl": "\n".join(lines(text="prompt"))},
    "prompt, image": {"metadata.jsonl": "\n".join(lines("image", "prompt"))},
    "image_file_name": {"metadata.jsonl": "\n".join(lines("image_file_name"))},
    "a list": {"metadata.jsonl": json.dumps(ROWS)},
    "a list over lines": {"metadata.jsonl": json.dumps(ROWS, indent=1, ensure_ascii=False)},
    "a list, an object a line": {"metadata.jsonl": "[\n" + ",\n".join(lines()) + "\n]"},
    "a broken list, an object a line": {"metadata.jsonl": "[" + ",\n".join(lines()) + ",]"},
    "commas between lines": {"metadata.jsonl": ",\n".join(lines()) + ","},
    "metadata.json": {"metadata.json": json.dumps(ROWS, indent=4)},
    "captions by name": {"metadata.json": json.dumps(CAPTIONS)},
    "captions by name, over lines": {"metadata.json": json.dumps(CAPTIONS, indent=2)},
    "objects by name": {
        "metadata.json": json.dumps({n: {"caption": c} for n, c in CAPTIONS.items()})
    },
    "UTF-16": {"metadata.jsonl": "\r\n".join(lines()).encode("utf-16")},
    "UTF-16 without a mark": {"metadata.jsonl": "\n".join(lines()).encode("utf-16-le")},
    "UTF-16, a list": {"metadata.jsonl": json.dumps(ROWS, indent=1).encode("utf-16")},
    "UTF-8 with a mark": {"metadata.jsonl": "\n".join(lines()).encode("utf-8-sig")},
    "CSV": {"metadata.csv": cells(table())},
    "CSV with semicolons": {"metadata.csv": cells(table(text="prompt"), ";", "")},
    "CSV, UTF-16 with tabs": {"metadata.csv": cells(table(), "\t").encode("utf-16")},
    "CSV with a mark": {"metadata.csv": cells(table()).encode("utf-8-sig")},
    "TSV": {"metadata.tsv": cells(table(), "\t", "")},
    "a split": {"train/metadata.jsonl": "\n".join(lines()), **images("train/")},
    "a split, paths from the top": {
        "train/metadata.csv": cells(table(prefix="train/")),
        **images("train/"),
    },
    "two splits": {
        "data/train/metadata.jsonl": "\n".join(lines()),
        "data/test/metadata.jsonl": '{"file_name": "gone.png", "text": ""}',
        **images("data/train/"),
    },
    "other folders": {
        "a/metadata.jsonl": lines()[0],
        "b/metadata.csv": cells(table()[:1] + table()[2:]),
        **images("a/"),
        **images("b/"),
    },
    "text files": {n.replace("png", "txt"): c + "\n" for n, c in CAPTIONS.items()},
    "caption files": {n.replace("png", "caption"): c for n, c in CAPTIONS.items()},
    "text files, UTF-16": {
        n.replace("png", "txt"): c.encode("utf-16") for n, c in CAPTIONS.items()
    },
    "text files in folders": {
        **{f"10_dog/{n}".replace("png", "txt"): c for n, c in CAPTIONS.items()},
        **images("10_dog/"),
    },
    "slashes of Windows": {"metadata.csv": cells(table(prefix="more\\")), **images("more/")},
    "columns in capitals": {"metadata.csv": cells(table("File_Name", "Caption"))},
    "file_path": {"metadata.jsonl": "\n".join(lines("file_path"))},
    "a table in capitals": {"METADATA.JSONL": "\n".join(lines())},
    "CSV with bars": {"metadata.csv": cells(table(), "|", "")},
    "CSV with spaces": {"metadata.csv": cells(table(), ", ")},
    "line ends of an old Mac": {"metadata.jsonl": "\r".join(lines())},
    "objects over lines": {"metadata.jsonl": "\n".join(json.dumps(r, indent=2) for r in ROWS)},
    "a list under a name": {"metadata.json": json.dumps({"version": 1, "data": ROWS})},
    "a list of each column": {
        "metadata.json": json.dumps({"file_name": list(CAPTIONS), "text": list(CAPTIONS.values())})
    },
    "columns by number, as pandas writes them": {
        "metadata.json": json.dumps(
            {
                "file_name": dict(enumerate(CAPTIONS)),
                "text": dict(enumerate(CAPTIONS.values())),
            }
        )
    },
    "names without an ending": {
        "metadata.json": json.dumps({n.removesuffix(".png"): c for n, c in CAPTIONS.items()})
    },
    "endings in capitals": {"metadata.jsonl": "\n".join(lines()).replace(".png", ".PNG")},
    "spaces around names": {"metadata.csv": cells([[f" {n} ", c] for n, c in table()])},
    "paths that begin with the folder": {"metadata.csv": cells(table(prefix="mine/"))},
    "text files named after all of the image's name": {f"{n}.txt": c for n, c in CAPTIONS.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_yields_every_image_with_its_caption(tmp_path, form):
    folder = tmp_path / "mine"
    write(folder, images() | FORMS[form])
    rows, problems = read_metadata(folder)
    assert problems == []
    assert {row.path.name: row.captions for row in rows} == {n: (c,) for n, c in CAPTIONS.items()}
    data = opened(folder)
    assert sorted(data.batch(range(3), 8).captions) == sorted(CAPTIONS.values())
    # and the form is named
    endings = (".jsonl", ".csv", ".json", ".tsv")
    named = [name for name in FORMS[form] if name.lower().endswith(endings)]
    assert (named[0] if named else "text files beside the images") in data.form


def test_parquet_is_read_where_pyarrow_is_installed(tmp_path, monkeypatch):
    write(tmp_path, images() | {"metadata.parquet": b"PAR1"})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match="metadata.parquet needs the package pyarrow: pip install"):
        read_metadata(tmp_path)


def test_a_text_file_of_several_lines_holds_several_captions(tmp_path):
    write(tmp_path, images() | {"0.txt": "one\n\n two \r\n", "1.txt": "", "3.txt": "no image"})
    (row,), (problem,) = read_metadata(tmp_path)
    assert row.captions == ("one", "two") and problem == "1.txt: the caption is empty"
    assert problem.path == (tmp_path / "1.png").resolve()
    # the image with a bad caption is named by its text file; that without any is not used
    assert unlisted(tmp_path, [row], [problem]) == ["1.txt", "2.png", "3.txt"]


def test_another_column_of_captions_is_read_by_its_name(tmp_path):
    rows = [{"file_name": "0.png", "text": "a", "alt": "b"}, {"file_name": "1.png", "text": "a"}]
    write(tmp_path, images() | {"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    (row,), (problem,) = read_metadata(tmp_path, "alt")
    assert row.captions == ("b",)
    assert (
        "\"alt\" must be a caption or a list of captions; got null; the row has 'text'" in problem
    )
    assert describe_form([row]) == "metadata.jsonl, captions from 'alt'"
    with pytest.raises(ValueError, match="--caption-column"):
        write(tmp_path, {"metadata.jsonl": '{"file_name": "0.png", "says": "a"}'})
        opened(tmp_path)


def test_a_column_is_sought_in_tables_alone(tmp_path):
    write(tmp_path, images() | {"0.txt": "one", "1.txt": "two"})
    assert len(read_metadata(tmp_path)[0]) == 2
    with pytest.raises(ValueError, match="text files such as 0.txt, which have no column 'alt'"):
        read_metadata(tmp_path, "alt")
    write(tmp_path, {"captions.csv": "file_name,alt\n2.png,three\n"})
    (row,), _ = read_metadata(tmp_path, "alt")
    assert row.captions == ("three",)


@pytest.mark.parametrize(
    "csv, problem",
    [
        (
            "file_name,text\n0.png,a red circle, and more",
            "line 2: 3 cells, but the first line names 2",
        ),
        ("0.png,a red circle\n1.png,a", "line 2: expected an object with"),
        ("file_name,text\n0.png,", "line 2: the caption is empty"),
        (b"file_name,text\n1.png,fine\n0.png,gr\xfcn", "line 3: no UTF-8 at byte 8"),
        ("file_name,text\n0.png,a\0b", "line 2: the caption holds a NUL"),
        ("file_name,text\n0.png," + "x" * 200_000, "line 2: no CSV .field larger"),
    ],
)
def test_a_bad_row_of_a_csv_is_named(tmp_path, csv, problem):
    write(tmp_path, images() | {"metadata.csv": csv})
    _, (found,) = read_metadata(tmp_path)
    assert found.startswith("metadata.csv ") and __import__("re").search(problem, found)


@pytest.mark.parametrize(
    "files, hint",
    [
        ({}, "has no metadata.jsonl, but 3 images without captions; expected"),
        ({"labels.csv": "a"}, "but labels.csv: call it metadata.csv"),
        ({"data/train-00000-of-1.parquet": "a"}, "images inside: python -m train.download_dataset"),
        ({"00000.tar": "a"}, "but archives: unpack them first"),
        ({"images.ZIP": "a"}, "but archives: unpack them first"),
        ({"0.json": "{}", "1.json": "{}"}, "but 3 images without captions"),
    ],
)
def test_a_folder_without_captions_says_what_it_holds_instead(tmp_path, files, hint):
    write(tmp_path, images() | files)
    with pytest.raises(FileNotFoundError, match=hint):
        read_metadata(tmp_path)


def test_a_name_that_may_mean_two_images_means_none(tmp_path):
    row = '{"file_name": "0", "text": "a"}'
    write(tmp_path, images() | {"0.jpg": encoded(Image.new("RGB", (8, 8))), "metadata.jsonl": row})
    assert read_metadata(tmp_path) == (
        [],
        ["metadata.jsonl line 1: file_name '0' is not there; expected an image"],
    )


@pytest.mark.parametrize(
    "content, problem",
    [
        (json.dumps(ROWS, indent=1).replace('"0.png",', '"0.png"'), "no JSON at line 4, column 3"),
        (
            json.dumps({"images": ROWS, "annotations": ROWS}, indent=1),
            'expected an object with "fi',
        ),
        (json.dumps(["0.png"]), 'expected an object with "file_name"'),
    ],
)
def test_json_that_is_no_table_is_one_problem_and_not_one_a_line(tmp_path, content, problem):
    write(tmp_path, images() | {"metadata.json": content})
    rows, problems = read_metadata(tmp_path)
    assert not rows and len(problems) == 1 and problem in problems[0]


def test_absolute_paths_that_lie_inside_the_folder_are_inside(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "real", images())
    names = [tmp_path / "real" / "0.png", tmp_path / "link" / "1.png", "./x/../2.png"]
    write(
        tmp_path / "real",
        {
            "metadata.jsonl": "\n".join(
                json.dumps({"file_name": str(n), "text": "a"}) for n in names
            )
        },
    )
    for folder in ("real", "link"):
        rows, problems = read_metadata(tmp_path / folder)
        assert problems == [] and [row.path.name for row in rows] == list(CAPTIONS)


# ---------------------------------------------------------------- rows that cannot be used


def hundred(folder, bad, n=200):
    """A folder in which the rows `bad` have no caption."""
    image = encoded(Image.new("RGB", (8, 8), "red"))
    rows = [{"file_name": f"{i}.png", "text": bad[i] if i in bad else str(i)} for i in range(n)]
    write(folder, {f"{i}.png": image for i in range(n)})
    write(folder, {"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    return folder


@pytest.mark.parametrize("caption", [None, "", "  ", [], 7])
def test_a_row_without_a_caption_can_be_skipped_like_a_broken_image(tmp_path, caption):
    hundred(tmp_path, {42: caption})
    with pytest.raises(ValueError, match="(?s)1 of 200 rows.*line 43.*leave out up to 2.*--skip"):
        opened(tmp_path)
    data = opened(tmp_path, skip_broken=True)
    assert len(data) == 199 and len(data.left_out) == 1 and "line 43" in data.left_out[0]
    assert "42" not in data.batch(range(199), 8).captions
    (tmp_path / "7.png").write_bytes(b"")
    assert len(opened(tmp_path, skip_broken=True)) == 198
    (tmp_path / "8.png").write_bytes(b"")
    with pytest.raises(ImageError, match="3 of 200 images are broken, more than the 1 %"):
        opened(tmp_path, skip_broken=True)


@pytest.mark.parametrize("kind", ["caption", "image"])
def test_one_of_a_small_folder_can_be_skipped_and_the_advice_says_how_many(tmp_path, kind):
    hundred(tmp_path, {5: None} if kind == "caption" else {}, n=8)
    if kind == "image":
        (tmp_path / "5.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="(?s)leave out up to 1 of (them|8): --skip-broken"):
        opened(tmp_path)
    assert len(opened(tmp_path, skip_broken=True)) == 7
    (tmp_path / "6.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="2 of 8 images are broken") as error:
        opened(tmp_path, skip_broken=True)
    assert "--skip-broken" not in str(error.value)


def test_of_one_image_none_can_be_skipped(tmp_path):
    hundred(tmp_path, {}, n=1)
    (tmp_path / "0.png").write_bytes(b"no image")
    for skip in (False, True):
        with pytest.raises(ImageError, match="0.png") as error:
            opened(tmp_path, skip_broken=skip)
        assert "--skip-broken" not in str(error.value)


# ---------------------------------------------------------------- prepared images


def test_a_process_that_is_started_gets_the_name_of_the_file_and_no_copy(tmp_path):
    hundred(tmp_path, {}, n=200)
    data = ImageFolderDataset(tmp_path, (64,), progress=False)
    pixels = 200 * 64 * 64 * 3
    assert len(pickle.dumps(data)) < pixels / 20
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again.batch(range(200), 64).images, data.batch(range(200), 64).images)
    assert isinstance(again.images[64].array, np.memmap)


class Numbers(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __getitem__(self, i):
        return self.data.batch([i], 8).images

    def __len__(self):
        return len(self.data)


@pytest.mark.slow
def test_spawned_workers_read_the_same_images(tmp_path):
    write(tmp_path, images() | {"metadata.jsonl": "\n".join(lines())})
    data = opened(tmp_path)
    loader = DataLoader(
        Numbers(data), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    assert torch.equal(torch.cat(list(loader)), data.batch(range(3), 8).images)


def test_a_cache_that_is_a_link_is_refused_and_only_our_own_folders_are_removed(tmp_path):
    write(tmp_path / "p", images() | {"metadata.jsonl": "\n".join(lines())})
    precious = ("pictures-of-my-life", "images-backup", "images-0123456789abcdef0")
    stale = ("pictures-0123456789abcdef", "images-0123456789abcdef", "images-tmp_abc1")
    for name in (*precious, *stale):
        write(tmp_path / "elsewhere" / name, {"a.png": b"a"})
    (tmp_path / "p" / ".prepared").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="it is a link.*--data-cache"):
        opened(tmp_path / "p")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 6
    (tmp_path / "p" / ".prepared").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "p" / ".prepared")
    opened(tmp_path / "p")
    left = {path.name for path in (tmp_path / "p" / ".prepared").iterdir()}
    assert set(precious) <= left and not left & set(stale)


def test_prepared_images_that_were_cut_are_made_again(tmp_path):
    write(tmp_path, images() | {"metadata.jsonl": "\n".join(lines())})
    before = opened(tmp_path).batch(range(3), 8).images
    (file,) = (tmp_path / ".prepared").glob("*/8.npy")
    for size in (0, 100, file.stat().st_size - 1):
        file.write_bytes(file.read_bytes()[:size])
        assert torch.equal(opened(tmp_path).batch(range(3), 8).images, before)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_prepared_images_with_other_bytes_are_made_again(tmp_path, at):
    """As a disk that was full or lost its power leaves them: of the right length, and zero."""
    write(tmp_path, images() | {"metadata.jsonl": "\n".join(lines())})
    before = opened(tmp_path).batch(range(3), 8).images
    (file,) = (tmp_path / ".prepared").glob("*/8.npy")
    pixels = np.load(file)
    pixels[at] = 0
    np.save(file, pixels)
    assert torch.equal(opened(tmp_path).batch(range(3), 8).images, before)
    assert np.load(file)[at].any()


def test_checksums_that_are_missing_or_cut_are_made_again(tmp_path):
    write(tmp_path, images() | {"metadata.jsonl": "\n".join(lines())})
    before = opened(tmp_path).batch(range(3), 8).images
    (file,) = (tmp_path / ".prepared").glob("*/8.crc32")
    for damage in (file.unlink, lambda: file.write_bytes(b"123")):
        damage()
        assert torch.equal(opened(tmp_path).batch(range(3), 8).images, before)
        assert len(file.read_bytes()) == 4 * 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"checksums": [""], "broken": {}}'])
def test_what_is_known_of_prepared_images_is_made_again_where_it_is_damaged(tmp_path, content):
    write(tmp_path, images() | {"metadata.jsonl": "\n".join(lines())})
    before = opened(tmp_path).fingerprint
    (file,) = (tmp_path / ".prepared").glob("*/info.json")
    file.write_text(content)
    assert opened(tmp_path).fingerprint == before


def test_a_prepared_image_that_is_damaged_later_is_named_and_not_trained_on(tmp_path):
    write(tmp_path, images() | {"metadata.jsonl": "\n".join(lines())})
    data = opened(tmp_path)
    (file,) = (tmp_path / ".prepared").glob("*/8.npy")
    with open(file, "r+b") as damaged:
        damaged.seek(-1, 2)
        damaged.write(b"\0")
    with pytest.raises(ImageError, match=r"image 3 of 3 in .*8.npy .*remove the folder .*images-"):
        data.batch(range(3), 8)
    rows = [i for i in range(3) if epoch_row(i, 3, 0) != 2]
    assert data.batch(rows, 8).images.shape == (2, 3, 8, 8)


def test_of_many_prepared_images_some_of_each_part_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "SPOT_CHECKS", 4)
    names = [f"{i}.png" for i in range(20)]
    one = encoded(Image.new("RGB", (8, 8), "red"))
    rows = [json.dumps({"file_name": name, "text": "a"}) for name in names]
    write(tmp_path, {name: one for name in names} | {"metadata.jsonl": "\n".join(rows)})
    opened(tmp_path)
    (file,) = (tmp_path / ".prepared").glob("*/8.npy")
    sound = file.read_bytes()
    for part in (slice(128, 700), slice(2000, 3500), slice(-200, None)):
        damaged = bytearray(sound)
        damaged[part] = bytes(len(damaged[part]))
        file.write_bytes(damaged)
        opened(tmp_path)
        assert file.read_bytes() == sound


# ---------------------------------------------------------------- sound pixels, odd blocks


def chunk(name, data, crc=None):
    crc = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
LONG = b"workflow " * (3 << 17)  # 3.5 MB
BLOCKS = {
    "compressed text": chunk(b"zTXt", b"a\0\0" + zlib.compress(LONG)),
    "international text": chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(LONG)),
    "plain text": chunk(b"tEXt", b"a\0" + LONG),
    "colour profile": chunk(b"iCCP", b"a\0\0" + zlib.compress(LONG)),
    "no colour profile": chunk(b"iCCP", b"a\0\0garbage"),
    "no EXIF": chunk(b"eXIf", b"garbage!"),
    "EXIF cut": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x05"),
    "EXIF as text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 8\nzz")),
    "a short block": chunk(b"pHYs", b"1"),
    "a checksum": chunk(b"tEXt", b"a\0b", crc=1),
    "a checksum of EXIF": chunk(b"eXIf", b"garbage!", crc=1),
}


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it found
@pytest.mark.parametrize("block", BLOCKS)
def test_a_png_with_sound_pixels_is_read_whatever_else_is_in_it(tmp_path, block):
    content = encoded(NOISE)
    (tmp_path / "a.png").write_bytes(content[:33] + BLOCKS[block] + content[33:])
    assert np.array_equal(np.asarray(open_rgb(tmp_path / "a.png")), np.asarray(NOISE))
    # but damaged pixels are not
    (tmp_path / "a.png").write_bytes(content[:33] + BLOCKS[block] + content[33:-60])
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_rgb(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore")
def test_the_orientation_survives_a_block_that_is_skipped(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (4, 8)), exif=exif)
    (tmp_path / "a.png").write_bytes(content[:33] + BLOCKS["a checksum"] + content[33:])
    assert open_rgb(tmp_path / "a.png").size == (8, 4)


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000"])
def test_newer_formats_that_pillow_reads_are_read(tmp_path, format):
    if format not in readable_formats():
        pytest.skip(f"this Pillow reads no {format}")
    image = Image.new("RGB", (32, 16), (200, 30, 60))
    (tmp_path / "a").write_bytes(encoded(image, format))
    found = np.asarray(open_rgb(tmp_path / "a")).astype(int)
    assert found.shape == (16, 32, 3) and np.abs(found - (200, 30, 60)).max() <= 4


def test_what_is_no_readable_image_is_named(tmp_path):
    for content, what in (
        (b"\0\0\0\x18ftypheic" + bytes(99), "It is HEIC, as phones write it: save it as JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS: git lfs pull"),
        (b"<!DOCTYPE html>", "It is a web page"),
    ):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ImageError, match=what):
            open_rgb(tmp_path / "a.png")


def test_16_bit_grey_is_read_by_what_its_values_mean(tmp_path):
    grey = Image.fromarray(np.full((4, 4), 51400, np.uint16))
    grey.save(tmp_path / "a.tif", tiffinfo={262: 0})  # white is zero
    assert open_rgb(tmp_path / "a.tif").getpixel((0, 0)) == (55, 55, 55)
    content = encoded(grey)
    for transparent, expected in ((51400, 255), (51399, 200)):  # on white
        block = chunk(b"tRNS", struct.pack(">H", transparent))
        (tmp_path / "a.png").write_bytes(content[:33] + block + content[33:])
        assert open_rgb(tmp_path / "a.png").getpixel((0, 0)) == (expected,) * 3


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa"])
def test_transparent_images_of_every_mode_are_put_on_white(mode):
    image = Image.new("LA" if mode == "La" else "RGBA", (8, 8))  # all transparent
    assert (image_to_tensor(image.convert(mode), 8) == 1).all()


def test_an_image_that_is_already_open_is_read_as_one_in_a_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for image in (Image.fromarray(values), NOISE, NOISE.convert("LA"), NOISE.convert("P")):
        image.save(tmp_path / "a.png", exif=exif)
        expected = np.asarray(open_rgb(tmp_path / "a.png")) / 127.5 - 1
        with Image.open(tmp_path / "a.png") as found:
            tensor = image_to_tensor(found, None).permute(1, 2, 0)
        assert np.abs(tensor.numpy() - expected).max() < 1e-6


def test_one_table_of_all_splits_is_split_by_its_names(tmp_path):
    names = [f"{split}/{i}.png" for split in ("train", "test") for i in (0, 1)]
    rows = [json.dumps({"file_name": name, "text": f"image {name}"}) for name in names]
    write(tmp_path, {name: encoded(Image.new("RGB", (8, 8))) for name in names})
    write(tmp_path, {"metadata.jsonl": "\n".join(rows)})
    trained, problems = read_metadata(tmp_path)
    apart, _ = read_metadata(tmp_path, held_out=True)
    assert not problems
    assert [row.name for row in trained] == names[:2] and [row.name for row in apart] == names[2:]
    # links to files in another folder, which are called otherwise
    other, blobs = tmp_path / "other", tmp_path / "other" / "blobs"
    blobs.mkdir(parents=True)
    write(other, {"metadata.jsonl": "\n".join(rows)})
    for number, name in enumerate(names):
        (blobs / str(number)).write_bytes((tmp_path / name).read_bytes())
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).symlink_to(blobs / str(number))
    assert [row.name for row in read_metadata(other)[0]] == names[:2]


def test_images_of_one_name_in_two_folders_are_not_confused(tmp_path):
    """Also where they are equally large and old, as files of an archive may be."""
    colors = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    for name, color in colors.items():
        row = json.dumps({"file_name": "1.bmp", "text": f"a {name} square"})
        pixels = encoded(Image.new("RGB", (16, 16), color), "BMP")
        write(tmp_path / name, {"1.bmp": pixels, "metadata.jsonl": row})
        os.utime(tmp_path / name / "1.bmp", (1e9, 1e9))

    def seen():
        data = ImageFolderDataset(tmp_path, (16,), progress=False)
        batch = data.batch(range(len(data)), 16)
        return {
            caption: tuple(image[:, 0, 0].tolist())
            for caption, image in zip(batch.captions, batch.images)
        }

    first = seen()
    assert first["a red square"] == (1, -1, -1) and first["a blue square"] == (-1, -1, 1)
    row = json.dumps({"file_name": "2.bmp", "text": "a gray square"})
    write(
        tmp_path / "more",
        {"2.bmp": encoded(Image.new("RGB", (16, 16), "gray"), "BMP"), "metadata.jsonl": row},
    )
    again = seen()  # those of before are copied
    assert {caption: again[caption] for caption in first} == first and len(again) == 3
