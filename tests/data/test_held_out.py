"""Images held out of training: no caption and no image is on both sides, in any order."""

import json
import random

import pytest
import torch
from PIL import Image

from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.data.held_out import rows_held_out

N = 2000
CAPTIONS = [[f"a thing {i}"] for i in range(N)]
CHECKSUMS = [str(i) for i in range(N)]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_a_share_is_held_out(share):
    assert len(rows_held_out(CAPTIONS, CHECKSUMS, share)) == share * N
    several = [CAPTIONS[i // 3] for i in range(N)]
    assert 0 <= share * N - len(rows_held_out(several, CHECKSUMS, share)) < 3


def test_the_choice_does_not_depend_on_order_and_hardly_on_what_is_added():
    def chosen(rows):
        found = rows_held_out([CAPTIONS[i] for i in rows], [CHECKSUMS[i] for i in rows], 0.1)
        return {rows[i] for i in found}

    some = list(range(500))
    assert chosen(some) == chosen(random.Random(0).sample(some, 500))
    more = chosen(random.Random(1).sample(range(N), N))
    assert len(chosen(some) ^ {i for i in more if i < 500}) <= 10  # of 50


def test_no_caption_and_no_image_is_on_both_sides():
    rng = random.Random(1)
    captions = [
        [rng.choice((str, str.upper, "  {}".format))(f"word {rng.randrange(900)}") for _ in "ab"]
        for _ in range(600)
    ]
    images = [str(rng.randrange(580)) for _ in captions]
    held_out = rows_held_out(captions, images, 0.3)
    assert 0 < len(held_out) < 600

    def side(wanted):
        rows = [i for i in range(600) if (i in held_out) == wanted]
        words = {" ".join(text.lower().split()) for i in rows for text in captions[i]}
        return words, {images[i] for i in rows}

    for inside, outside in zip(side(True), side(False)):
        assert not inside & outside


def test_of_few_images_one_is_held_out_and_of_equal_captions_none_can_be():
    assert len(rows_held_out(CAPTIONS[:3], CHECKSUMS[:3], 0.001)) == 1
    assert rows_held_out([["a"], ["b"], ["a"]], CHECKSUMS[:3], 0.001) == {1}
    assert len(rows_held_out(CAPTIONS[:3], CHECKSUMS[:3], 0.9)) == 2  # one is left to train on
    with pytest.raises(ValueError, match="nothing can be held out of 4 images: all of them share"):
        rows_held_out([["a", str(i)] for i in range(4)], CHECKSUMS[:4], 0.5)


def folder_of(path, n=40):
    path.mkdir()
    for i in range(n):
        Image.new("RGB", (8, 8), (6 * i, 0, 0)).save(path / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "text": f"thing {i // 2}"} for i in range(n)]
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def opened(path, **options):
    return ImageFolderDataset(path, (8,), progress=False, **options)


def epoch(data):
    return sorted(data.batch(range(len(data)), 8).captions)


def test_the_parts_of_a_folder_are_all_of_it_and_need_one_cache(tmp_path):
    folder = folder_of(tmp_path / "f")
    whole, train = opened(folder), opened(folder, held_out=0.2)
    apart = opened(folder, held_out=0.2, part="held_out")
    assert sorted(epoch(train) + epoch(apart)) == epoch(whole)
    assert not set(epoch(train)) & set(epoch(apart)) and len(apart) == train.apart > 0
    assert len([p for p in (folder / ".prepared").iterdir() if p.is_dir()]) == 1
    # without a share, all is as it was before there was one
    assert whole.describe().keys() == {"source", "name", "images", "fingerprint"}
    assert train.describe()["held_out"] == 0.2
    assert len({data.describe()["fingerprint"] for data in (whole, train, apart)}) == 3


def test_a_split_of_the_folder_is_what_is_held_out(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "f").mkdir(exist_ok=True)
        folder_of(tmp_path / "f" / split, n=4 if split == "test" else 6)
    assert len(opened(tmp_path / "f")) == 6
    assert len(opened(tmp_path / "f", part="held_out")) == 4
    for _ in range(2):  # each keeps its prepared images
        assert len(list((tmp_path / "f" / ".prepared").glob("**/images-*"))) == 2
        assert len(opened(tmp_path / "f")) == 6
    with pytest.raises(FileNotFoundError, match="has no split that is held out"):
        opened(folder_of(tmp_path / "g"), part="held_out")


@pytest.mark.parametrize("option", [{"held_out": 1}, {"fit": "stretch"}, {"part": "test"}])
def test_options_that_are_none_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} .*; expected"):
        opened(folder_of(tmp_path / "f", 2), **option)


def test_padding_keeps_the_ends_that_cropping_loses(tmp_path):
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 4, 20))
    image.save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a")
    (crop,) = opened(tmp_path).batch([0], 8).images
    padded = opened(tmp_path, fit="pad", background="#00ff00")
    (pad,) = padded.batch([0], 8).images
    assert torch.equal(crop, torch.tensor([-1.0, -1, 1])[:, None, None].expand(3, 8, 8))
    green = torch.tensor([-1.0, 1, -1])[:, None, None].expand(3, 2, 8)
    assert torch.equal(pad[:, :2], green) and torch.equal(pad[:, -2:], green)
    assert pad[0, 4, 0] > 0.5 and pad[2, 4, -1] > 0.9  # red at the left end, blue at the right
    assert padded.describe()["fit"] == "pad"
    # both stay prepared, beside each other
    assert len([p for p in (tmp_path / ".prepared").iterdir() if p.is_dir()]) == 2


def test_transparent_pixels_are_put_on_the_background(tmp_path):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 8, 4))
    image.save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a")
    for options, below in (({}, (255,) * 3), ({"background": "#102030"}, (16, 32, 48))):
        (pixels,) = opened(tmp_path, **options).batch([0], 8).images
        found = ((pixels + 1) * 127.5).round().int()
        assert found[:, 1, 3].tolist() == [0, 0, 255] and tuple(found[:, 6, 3].tolist()) == below


def test_images_smaller_than_a_stage_are_counted_by_the_side_that_fills_the_square(tmp_path):
    for i, size in enumerate([(300, 100), (300, 300), (50, 50)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(str(i))
    assert opened(tmp_path).enlarged(256) == 2
    assert opened(tmp_path, fit="pad").enlarged(256) == 1
    assert opened(tmp_path).enlarged(8) == 0


@pytest.mark.parametrize("name", ["captions.csv", "Captions.jsonl", "sub/captions.tsv"])
def test_a_table_called_captions_is_read_where_there_is_no_other(tmp_path, name):
    sign = {"csv": ",", "tsv": "\t"}.get(name[-3:])
    for i in range(2):
        path = (tmp_path / name).parent / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    rows = [f"{i}.png{sign}thing {i}" for i in range(2)]
    text = "\n".join([f"image{sign}caption", *rows])
    if sign is None:
        text = "\n".join(f'{{"image": "{i}.png", "caption": "thing {i}"}}' for i in range(2))
    (tmp_path / name).write_text(text)
    assert epoch(opened(tmp_path)) == ["thing 0", "thing 1"]
    for i in range(2):  # a text file beside an image comes first, as it did before
        ((tmp_path / name).parent / f"{i}.txt").write_text(f"text {i}")
    assert epoch(opened(tmp_path)) == ["text 0", "text 1"]
