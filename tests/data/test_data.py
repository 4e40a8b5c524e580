"""Folders of images: decoding, metadata, order, and the cache of prepared images."""

import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import imagen_mini.data.prepared
from imagen_mini.data import image_io as decode
from imagen_mini.data.folder import ImageFolderDataset, epoch_row
from imagen_mini.data.image_io import ImageError, open_rgb
from imagen_mini.data.metadata import read_metadata, unlisted, write_folder
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.scenes.captions import training_caption
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import training_scene
from imagen_mini.utils.images import central_square

ROOT = Path(__file__).parents[2]


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(width, height, depth, color_type, rows):
    """A PNG file by hand: of modes and sizes that Pillow does not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def colored(i):
    """A small image of one colour."""
    return encoded(Image.new("RGB", (8, 8), (i % 256, 100, 200 - i % 200)))


@pytest.fixture
def folder(tmp_path):
    """Ten images, each of one colour, with captions; some with two."""
    write_folder(
        tmp_path / "images",
        [
            (f"{i}.png", colored(20 * i), f"number {i}" if i % 2 else [f"number {i}", f"the {i}"])
            for i in range(10)
        ],
    )
    return tmp_path / "images"


def opened(folder, sizes=(16, 8), **options):
    return ImageFolderDataset(folder, sizes, progress=False, **options)


# ---------------------------------------------------------------- decoding


def palette(transparency=None):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return encoded(image, **{} if transparency is None else {"transparency": transparency})


def orientation(value):
    """EXIF data; 6: to be turned by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def turned(format):
    """Red above blue, stored lying on its side, as EXIF says."""
    image = Image.new("RGB", (32, 32), (255, 0, 0))
    image.paste((0, 0, 255), (0, 16, 32, 32))
    return encoded(
        image.transpose(Image.Transpose.ROTATE_90),
        format,
        exif=orientation(6),
        **{"lossless": True} if format == "WEBP" else {},
    )


def several(format):
    return encoded(
        Image.new("RGB", (4, 4), (255, 0, 0)),
        format,
        save_all=True,
        append_images=[Image.new("RGB", (4, 4), (0, 0, 255))],
    )


def grey16(value, format="PNG"):
    return encoded(Image.fromarray(np.full((4, 4), value, np.uint16)), format)


RED_ABOVE_BLUE = [(255, 0, 0), (0, 0, 255)]
MODES = {
    "grey": (encoded(Image.new("L", (4, 4), 77)), [(77, 77, 77)] * 2),
    "bilevel": (encoded(Image.new("1", (4, 4), 1)), [(255, 255, 255)] * 2),
    "grey and alpha": (encoded(Image.new("LA", (4, 4), (0, 51))), [(204, 204, 204)] * 2),
    "grey with a transparent value": (
        encoded(Image.new("L", (4, 4), 7), transparency=7),
        [(255, 255, 255)] * 2,
    ),
    "alpha": (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 51))), [(255, 204, 204)] * 2),
    "fully transparent": (encoded(Image.new("RGBA", (4, 4), (9, 9, 9, 0))), [(255, 255, 255)] * 2),
    "palette": (palette(), [(10, 200, 30)] * 2),
    "palette, transparent": (palette(transparency=1), [(255, 255, 255)] * 2),
    "palette, with an alpha each": (palette(transparency=bytes([255, 0])), [(255, 255, 255)] * 2),
    "16-bit grey": (grey16(51400), [(200, 200, 200)] * 2),
    "16-bit grey, dark": (grey16(514), [(2, 2, 2)] * 2),
    "16-bit grey TIFF": (grey16(51400, "TIFF"), [(200, 200, 200)] * 2),
    "16-bit RGB": (
        png(4, 4, 16, 2, (b"\0" + struct.pack(">HHH", 51400, 514, 65535) * 4) * 4),
        [(200, 2, 255)] * 2,
    ),
    "16-bit RGB and alpha": (
        png(4, 4, 16, 6, (b"\0" + struct.pack(">HHHH", 0, 0, 65535, 0) * 4) * 4),
        [(255, 255, 255)] * 2,
    ),
    "CMYK JPEG": (
        encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100),
        [(255, 0, 0)] * 2,
    ),
    "CMYK TIFF": (encoded(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF"), [(0, 255, 255)] * 2),
    "turned JPEG": (turned("JPEG"), RED_ABOVE_BLUE),
    "turned PNG": (turned("PNG"), RED_ABOVE_BLUE),
    "turned WebP": (turned("WEBP"), RED_ABOVE_BLUE),
    "turned TIFF": (turned("TIFF"), RED_ABOVE_BLUE),
    "turned 16-bit grey": (
        encoded(
            Image.fromarray(np.repeat(np.array([[51400, 514]], np.uint16), 2, 0)).transpose(
                Image.Transpose.ROTATE_180
            ),
            exif=orientation(6),
        ),
        [(2, 2, 2), (200, 200, 200)],
    ),
    "BMP": (encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "BMP"), [(1, 2, 3)] * 2),
    "animated GIF": (several("GIF"), [(255, 0, 0)] * 2),
    "animated PNG": (several("PNG"), [(255, 0, 0)] * 2),
    "animated WebP": (several("WEBP"), [(255, 0, 0)] * 2),
    "TIFF of two pages": (several("TIFF"), [(255, 0, 0)] * 2),
}


@pytest.mark.parametrize("name", MODES)
def test_odd_images_become_rgb_with_the_correct_values(tmp_path, name):
    content, (top, bottom) = MODES[name]
    (tmp_path / "picture").write_bytes(content)  # the name says nothing of the format
    image = open_rgb(tmp_path / "picture")
    assert image.mode == "RGB"
    middle, tolerance = image.width // 2, 3 if "JPEG" in name or "WebP" in name else 0
    for y, expected in ((0, top), (image.height - 1, bottom)):
        assert np.abs(np.subtract(image.getpixel((middle, y)), expected)).max() <= tolerance


@pytest.mark.parametrize("mode", ["F", "I"])
def test_images_of_32_bits_whose_white_is_unknown_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4), 1000).save(tmp_path / "a.tiff")
    with pytest.raises(
        ImageError,
        match=f"a.tiff cannot be decoded: which of the values of mode {mode} .* is white is not "
        "known",
    ):
        open_rgb(tmp_path / "a.tiff")


@pytest.mark.parametrize(
    "side, declared", [(16384, "268435456 pixels"), (12000, "12000 x 12000 pixels")]
)
def test_decompression_bombs_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch, recwarn, side, declared
):
    bomb = png(side, side, 1, 0, bytes((side // 8 + 1) * side))
    assert len(bomb) < 40_000
    (tmp_path / "bomb.png").write_bytes(bomb)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(
        ImageError, match=f"bomb.png is too large: .*{declared}.*; at most 67,108,864 pixels"
    ):
        open_rgb(tmp_path / "bomb.png")


def test_the_cap_on_pixels_is_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    for width, fits in ((10, True), (11, False)):
        Image.new("L", (width, 10)).save(tmp_path / "a.png")
        if fits:
            assert open_rgb(tmp_path / "a.png").size == (width, 10)
        else:
            with pytest.raises(ImageError, match="11 x 10 pixels"):
                open_rgb(tmp_path / "a.png")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
BROKEN = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"this is no image\n" * 100,
    "PNG, header only": encoded(NOISE)[:40],
    **{
        f"{format}, cut in the middle": encoded(NOISE, format)[: len(encoded(NOISE, format)) // 2]
        for format in decode.FORMATS
    },
    "PPM, not on the list": encoded(NOISE, "PPM"),
    "ICO, not on the list": encoded(NOISE, "ICO"),
    "PDF, not on the list": encoded(NOISE, "PDF"),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_image_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "a broken one, ü.png").write_bytes(content)
    with pytest.raises(
        ImageError, match=r"a broken one, ü.png.* (is no image; expected PNG|cannot be decoded)"
    ):
        open_rgb(tmp_path / "a broken one, ü.png")


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it found
@pytest.mark.parametrize("format", decode.FORMATS)
def test_a_damaged_image_is_decoded_or_refused_with_our_own_error(tmp_path, format):
    rng, content = random.Random(0), encoded(NOISE.resize((16, 16)), format)
    outcomes = set()
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[rng.randrange(min(len(damaged), 100))] = rng.randrange(256)
        (tmp_path / "a").write_bytes(damaged)
        try:
            outcomes.add(open_rgb(tmp_path / "a").mode)
        except ImageError:
            outcomes.add("refused")
    assert "refused" in outcomes and outcomes <= {"RGB", "refused"}


def test_what_is_no_file_is_an_error_that_says_what_it_is(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for name, what in (("folder", "a folder"), ("link", "no file"), ("pipe", "no file")):
        with pytest.raises(ImageError, match=f"{name}.png is {what}; expected an image"):
            open_rgb(tmp_path / f"{name}.png")


def test_the_square_is_the_centre_and_the_resizing_is_anti_aliased():
    wide = Image.new("RGB", (300, 100), (255, 0, 0))
    wide.paste((0, 255, 0), (100, 0, 200, 100))
    assert (central_square(wide, 10) == (0, 255, 0)).all()
    assert (central_square(wide.transpose(Image.Transpose.ROTATE_90), 10) == (0, 255, 0)).all()
    checks = Image.fromarray((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)).convert(
        "RGB"
    )
    # without anti-aliasing: 0 or 255
    assert np.abs(central_square(checks, 64).astype(int) - 127.5).max() < 8


# ---------------------------------------------------------------- metadata


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"file_name": "0.png", "text": "a"', "no JSON at column 35"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b"[1, 2]", r'expected an object with "file_name" and "text"; got .\[1, 2\]'),
        (b'{"text": "a"}', 'expected an object with "file_name"'),
        (b'{"file_name": 3, "text": "a"}', 'expected an object with "file_name"'),
        (b'{"file_name": "0.png"}', '"text" must be a caption or a list of captions; got null'),
        (b'{"file_name": "0.png", "text": []}', '"text" must be a caption or a list of captions'),
        (b'{"file_name": "0.png", "text": ["a", 3]}', "a caption must be a string; got 3"),
        (b'{"file_name": "0.png", "text": " \\n"}', "the caption is empty"),
        (b'{"file_name": "0.png", "text": ["a", ""]}', "the caption is empty"),
        (b'{"file_name": "0.png", "text": "a\\u0000b"}', "the caption holds a NUL character"),
        (b'{"file_name": "0.png", "text": "\\ud83d"}', "the caption holds a lone surrogate"),
        (
            '{"file_name": "0.png", "text": "grün"}'.encode("latin-1"),
            r"no UTF-8 at byte 34 \(0xfc\)",
        ),
        ('{"file_name": "0.png", "text": "a"}'.encode("utf-16"), r"no UTF-8 at byte 0 \(0xff\)"),
        (b'{"file_name": "", "text": "a"}', "file_name '' leads out of the folder"),
        (
            b'{"file_name": "../secret.png", "text": "a"}',
            "file_name '../secret.png' leads out of the folder",
        ),
        (b'{"file_name": "x/../../secret.png", "text": "a"}', "leads out of the folder"),
        (b'{"file_name": "..\\\\secret.png", "text": "a"}', "leads out of the folder"),
        (b'{"file_name": "/etc/hostname", "text": "a"}', "leads out of the folder"),
        (b'{"file_name": "C:\\\\a.png", "text": "a"}', "leads out of the folder"),
        (
            b'{"file_name": "out.png", "text": "a"}',
            "file_name 'out.png' is a link that leads out of the folder, to .*secret.png",
        ),
        (
            b'{"file_name": "outside/secret.png", "text": "a"}',
            "is a link that leads out of the folder",
        ),
        (b'{"file_name": "circle.png", "text": "a"}', "is no usable path|is not there"),
        (b'{"file_name": "dangling.png", "text": "a"}', "file_name 'dangling.png' is not there"),
        (
            b'{"file_name": "gone.png", "text": "a"}',
            "file_name 'gone.png' is not there; expected an image",
        ),
        (
            b'{"file_name": "folder.png", "text": "a"}',
            "file_name 'folder.png' is a folder; expected an image",
        ),
        (b'{"file_name": "a\\u0000.png", "text": "a"}', "is no usable path|is not there"),
        (b'{"file_name": "\\ud800.png", "text": "a"}', "is no usable path|is not there"),
        (b'{"file_name": "' + b"x" * 5000 + b'", "text": "a"}', "is no usable path"),
    ],
    ids=lambda v: v[:48].decode("latin-1") if isinstance(v, bytes) else "",
)
def test_a_bad_line_is_named_with_its_reason_and_the_others_are_read(folder, line, reason):
    (folder.parent / "secret.png").write_bytes(colored(1))
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "outside").symlink_to(folder.parent)
    (folder / "dangling.png").symlink_to(folder / "nothing")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "folder.png").mkdir()
    good = b'{"file_name": "1.png", "text": "a good one"}'
    (folder / "metadata.jsonl").write_bytes(good + b"\n" + line.replace(b"\n", b"") + b"\n" + good)
    rows, (problem,) = read_metadata(folder)
    assert [row.line for row in rows] == [1, 3]
    assert re.match(f"metadata.jsonl line 2: .*({reason})", problem), problem
    with pytest.raises(
        ValueError, match="(?s)1 of 3 rows cannot be used.*line 2.*python -m train.check_dataset"
    ):
        opened(folder)


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_do_no_harm(folder):
    lines = (
        '\ufeff{"file_name": "1.png", "text": "grün"}\r\n\r\n{"file_name": "2.png", "text": "猫 '
        '😀", "more": 1}\r\n'
    )
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8", newline="")
    rows, problems = read_metadata(folder)
    assert problems == [] and [(row.line, row.captions) for row in rows] == [
        (1, ("grün",)),
        (3, ("猫 😀",)),
    ]


def test_links_and_folders_inside_the_folder_are_fine(folder):
    (folder / "more").mkdir()
    (folder / "more" / "a.png").symlink_to(folder / "1.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "more/a.png", "text": "a"}')
    (row,), problems = read_metadata(folder)
    assert problems == [] and row.path == (folder / "1.png").resolve()


def test_a_folder_without_metadata_is_an_error_that_shows_a_line_of_it(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match='has no metadata.jsonl; expected .*{"file_name": "1.png", "text": "a caption"}',
    ):
        read_metadata(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        read_metadata(tmp_path / "nowhere")
    (tmp_path / "metadata.jsonl").touch()
    with pytest.raises(ValueError, match="0 of 0 rows"):
        opened(tmp_path)


def test_files_without_a_row_are_listed(folder):
    (folder / "sub").mkdir()
    for name in ("new.png", "sub/b.jpg", ".hidden"):
        (folder / name).touch()
    (folder / "gone.png").symlink_to(folder / "nothing")
    assert unlisted(folder, read_metadata(folder)[0]) == ["gone.png", "new.png", "sub/b.jpg"]


def test_a_written_folder_is_read_back_and_never_overwritten(tmp_path):
    assert (
        write_folder(
            tmp_path / "new", [("a.png", colored(1), "grün"), ("b.png", colored(2), ["b", "c"])]
        )
        == 2
    )
    rows, problems = read_metadata(tmp_path / "new")
    assert problems == [] and [(row.name, row.captions) for row in rows] == [
        ("a.png", ("grün",)),
        ("b.png", ("b", "c")),
    ]
    with pytest.raises(FileExistsError, match="new is not empty"):
        write_folder(tmp_path / "new", [])

    def interrupted():
        yield "a.png", colored(1), "a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "half", interrupted())
    with pytest.raises(FileNotFoundError, match="has no metadata.jsonl"):
        read_metadata(tmp_path / "half")


# ---------------------------------------------------------------- samples


def test_the_built_in_world_returns_the_training_scenes_with_their_captions():
    images, low_res, captions = SceneDataset(3, (1, 1)).batch(range(5, 9), 64, 32)
    scenes = [training_scene(3, i, (1, 1)) for i in range(5, 9)]
    assert torch.equal(images, render(scenes, 64)) and torch.equal(low_res, render(scenes, 32))
    assert captions == [training_caption(scene, 3, i).text for scene, i in zip(scenes, range(5, 9))]
    assert SceneDataset().batch([0], 64).low_res is None


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own():
    epochs = [
        [epoch_row(number, 50, 0) for number in range(epoch * 50, (epoch + 1) * 50)]
        for epoch in range(3)
    ]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    orders = [*epochs, [epoch_row(number, 50, 1) for number in range(50)], list(range(50))]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_samples_do_not_depend_on_the_batch_or_on_what_was_asked_before(folder):
    whole = opened(folder).batch(range(30), 16, 8)  # three epochs in one batch
    data = opened(folder)
    for numbers in ([29, 3, 3], range(7, 12), [0]):
        images, low_res, captions = data.batch(numbers, 16, 8)
        assert torch.equal(images, whole.images[list(numbers)]) and torch.equal(
            low_res, whole.low_res[list(numbers)]
        )
        assert captions == [whole.captions[number] for number in numbers]
    assert opened(folder, seed=1).batch(range(30), 16).captions != whole.captions


def test_images_and_captions_belong_together_and_both_sizes_come_from_one_crop(tmp_path):
    rng = np.random.default_rng(0)
    originals = [
        Image.fromarray(rng.integers(0, 256, (300, 40 * (i + 1), 3), np.uint8)) for i in range(8)
    ]
    write_folder(
        tmp_path / "p",
        [(f"{i}.png", encoded(original), str(i)) for i, original in enumerate(originals)],
    )
    images, low_res, captions = opened(tmp_path / "p", (256, 64)).batch(range(8), 256, 64)
    assert sorted(captions) == list("01234567")
    for large, small, caption in zip(images, low_res, captions):
        for image, size in ((large, 256), (small, 64)):
            expected = (
                torch.from_numpy(central_square(originals[int(caption)], size).copy()).permute(
                    2, 0, 1
                )
                / 127.5
                - 1
            )
            assert (
                torch.allclose(image, expected, atol=1e-6)
                and -1 <= image.min()
                and image.max() <= 1
            )


def test_of_several_captions_all_are_seen_in_time(folder):
    data = opened(folder)
    seen = set(
        sum(
            (data.batch(range(10 * epoch, 10 * epoch + 10), 16).captions for epoch in range(12)), []
        )
    )
    assert seen == {f"number {i}" for i in range(10)} | {f"the {i}" for i in range(0, 10, 2)}


def test_a_size_that_was_not_prepared_is_an_error(folder):
    with pytest.raises(ValueError, match="prepared at 16, 8 px, not at 32"):
        opened(folder).batch([0], 32)


def test_the_fingerprint_is_that_of_images_and_captions_wherever_they_are(folder, tmp_path):
    first = opened(folder).describe()
    assert first == {
        "source": "folder",
        "name": "images",
        "images": 10,
        "fingerprint": first["fingerprint"],
    }
    shutil.copytree(
        folder,
        tmp_path / "copy",
        ignore=shutil.ignore_patterns(".prepared"),
        copy_function=shutil.copy,
    )
    assert (
        opened(tmp_path / "copy").fingerprint
        == first["fingerprint"]
        == opened(folder, (4,)).fingerprint
    )
    metadata = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(metadata.replace("number 3", "number three"))
    assert opened(folder).fingerprint != first["fingerprint"]
    (folder / "metadata.jsonl").write_text(metadata)
    (folder / "3.png").write_bytes(colored(99))
    assert opened(folder).fingerprint != first["fingerprint"]


# ---------------------------------------------------------------- broken images


def hundred(tmp_path, broken):
    images = [
        (f"{i}.png", b"broken" if i in broken else colored(i + 1), str(i)) for i in range(100)
    ]
    write_folder(tmp_path / "hundred", images)
    return tmp_path / "hundred"


def test_a_broken_image_stops_unless_it_may_be_skipped(tmp_path):
    folder = hundred(tmp_path, {42})
    with pytest.raises(ImageError, match="(?s)42.png.*is no image.*--skip-broken"):
        opened(folder)
    assert list((folder / ".prepared").glob("*/*")) == []
    data = opened(folder, skip_broken=True)
    assert len(data) == 99 and list(data.broken) == [42] and "42.png" in data.broken[42]
    with pytest.raises(ImageError, match="42.png"):  # also when it finds the work done
        opened(folder)


def test_a_skipped_image_is_never_seen_as_a_blank_one(tmp_path):
    images, _, captions = opened(hundred(tmp_path, {42}), skip_broken=True).batch(range(99), 8)
    assert sorted(captions, key=int) == [str(i) for i in range(100) if i != 42]
    red = ((images[:, 0].mean((1, 2)) + 1) * 127.5).round().int().tolist()
    assert red == [int(caption) + 1 for caption in captions]


def test_more_than_one_percent_of_broken_images_is_too_much_to_skip(tmp_path):
    with pytest.raises(
        ImageError, match="(?s)2 of 100 images are broken, more than the 1 %.*7.png.*42.png"
    ):
        opened(hundred(tmp_path, {42, 7}), skip_broken=True)


# ---------------------------------------------------------------- the cache


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images decoded so far."""
    names = []

    def watched(path, *options):
        names.append(path.name)
        return open_rgb(path, *options)

    monkeypatch.setattr(imagen_mini.data.prepared, "open_rgb", watched)
    return names


def test_images_are_decoded_once_for_all_sizes_and_again_when_they_change(folder, decoded):
    first = opened(folder).batch(range(10), 16)
    assert sorted(decoded) == sorted(f"{i}.png" for i in range(10))
    assert (
        torch.equal(opened(folder).batch(range(10), 16).images, first.images) and len(decoded) == 10
    )
    opened(folder, (16, 4))  # another size: decoded for that one
    assert len(decoded) == 20
    (folder / "3.png").write_bytes(colored(250))
    assert not torch.equal(opened(folder).batch(range(10), 16).images, first.images)
    assert decoded[20:] == ["3.png"]  # and no other
    opened(folder, (16, 4))
    assert len(decoded) == 21
    # what was prepared of the old images is gone
    assert len([p for p in (folder / ".prepared").iterdir() if p.is_dir()]) == 1


def test_changed_captions_need_no_decoding(folder, decoded):
    opened(folder)
    metadata = folder / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("number", "no."))
    assert "no. 1" in opened(folder).batch(range(10), 16).captions and len(decoded) == 10


def test_of_two_processes_one_waits_for_the_work_of_the_other(folder, decoded):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(opened(folder).batch(range(10), 16).images))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(torch.equal(found[0], f) for f in found) and len(decoded) == 10


SLOW = """
import sys, time
from imagen_mini.data import prepared
from imagen_mini.data.folder import ImageFolderDataset
fast = prepared.open_rgb
prepared.open_rgb = lambda path, *more: (time.sleep(0.05), fast(path, *more))[1]
prepared.CHUNK = 2
ImageFolderDataset(sys.argv[1], (16, 8), progress=False)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_could_be_taken_for_prepared_images(folder):
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(folder)], cwd=ROOT)
    while not any((folder / ".prepared").glob("*/16.npy")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (left,) = (p for p in (folder / ".prepared").iterdir() if p.is_dir())
    captions = opened(folder).batch(range(10), 16).captions
    assert sorted(c.split()[1] for c in captions) == [str(i) for i in range(10)]
    assert (
        not left.exists() and len([p for p in (folder / ".prepared").iterdir() if p.is_dir()]) == 1
    )


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_stopped_between_two_files_the_work_is_done_again(folder, decoded, monkeypatch, moment):
    def replace(source, target, real=os.replace):
        calls.append(target)
        if len(calls) > moment:
            raise KeyboardInterrupt
        real(source, target)

    calls, expected = [], opened(folder, cache=folder.parent / "other").batch(range(10), 16, 8)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            opened(folder)
    again = opened(folder).batch(range(10), 16, 8)
    assert (
        torch.equal(again.images, expected.images)
        and torch.equal(again.low_res, expected.low_res)
        and len(decoded) == 30
    )


def test_a_full_disk_is_an_error_and_leaves_no_litter(folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            opened(folder)
    assert not any(p.is_dir() for p in (folder / ".prepared").iterdir())


def test_a_folder_that_cannot_be_written_to_is_read_with_the_cache_elsewhere(folder, decoded):
    (folder / ".prepared").touch()  # as good as read-only, also for root
    with pytest.raises(
        OSError, match=r"cannot write the prepared images to .*\.prepared .*--data-cache"
    ):
        opened(folder)
    elsewhere, copy = folder.parent / "elsewhere", folder.parent / "copies" / folder.name
    (elsewhere / "of somebody else").mkdir(parents=True)
    shutil.copytree(folder, copy)
    # several folders may share it, and it may hold other files
    for path in (folder, copy, folder, copy):
        assert len(opened(path, cache=elsewhere)) == 10
    assert (
        len(decoded) == 20
        and (elsewhere / "of somebody else").is_dir()
        and not list(folder.rglob("*.npy"))
    )


def test_prepared_images_can_be_used_where_nothing_can_be_written(folder, monkeypatch):
    opened(folder)
    for name in ("mkdir", "touch"):
        monkeypatch.setattr(Path, name, lambda *args, **options: pytest.fail("written"))
    assert len(opened(folder)) == 10


def test_the_cache_holds_no_pickle(folder):
    opened(folder)
    files = {p.name: p for p in (folder / ".prepared").rglob("*") if p.is_file()}
    assert set(files) == {"lock", "info.json", "16.npy", "16.crc32", "8.npy", "8.crc32"}
    assert (
        np.load(files["16.npy"], allow_pickle=False).shape == (10, 16, 16, 3)
        and len(json.loads(files["info.json"].read_text())["checksums"]) == 10
    )


def test_an_added_image_is_the_only_one_that_is_decoded(folder, decoded):
    before = opened(folder, (16, 4))
    old = {c: i for c, i in zip(*pairs(before, 16))}
    (folder / "new.png").write_bytes(colored(77))
    with open(folder / "metadata.jsonl", "a") as file:
        file.write('{"file_name": "new.png", "text": "a new one"}\n')
    del decoded[:]
    after = opened(folder, (4,))
    assert decoded == ["new.png"]
    again = opened(folder, (16, 4))  # the other size was kept, and the new image made in it
    assert decoded == ["new.png"] and len(again) == len(before) + 1 == len(after)
    new = {c: i for c, i in zip(*pairs(again, 16))}
    assert all(torch.equal(new[c], old[c]) for c in old)
    (folder / "new.png").unlink()
    (folder / "metadata.jsonl").write_text(
        "\n".join((folder / "metadata.jsonl").read_text().splitlines()[:-1])
    )
    assert len(opened(folder, (16, 4))) == len(before) and decoded == ["new.png"]


def test_images_of_another_preparation_or_a_damaged_one_are_not_taken_over(folder, decoded):
    opened(folder)
    opened(folder, fit="pad")
    assert len(decoded) == 20
    (folder / "3.png").write_bytes(colored(250))
    for file in (folder / ".prepared").glob("*/16.npy"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1  # of the last image
        file.write_bytes(content)
    opened(folder)
    assert len(decoded) == 30  # the whole, as some of it is damaged


def test_where_both_would_not_fit_on_the_disk_the_old_ones_go_first(folder, decoded, monkeypatch):
    opened(folder)
    (folder / "3.png").write_bytes(colored(250))
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=10**6))
    opened(folder)
    assert len(decoded) == 20 and len(list((folder / ".prepared").glob("images-*"))) == 1


def pairs(data, size):
    """The captions and images of an epoch; captions in the plural form are the same image's."""
    batch = data.batch(range(len(data)), size)
    return [caption.split()[-1] for caption in batch.captions], list(batch.images)
