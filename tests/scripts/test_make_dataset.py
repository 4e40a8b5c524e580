"""Sets of images made of packages: what the captions say, what is held out, and interruptions.

The packages are made here: a few subjects, drawn as plain squares whose colour is the subject's.
"""

import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.data.metadata import read_metadata, unlisted
from imagen_mini.data.svg import can_render_svg, render_svg
from train import check_dataset
from train.make_dataset import __main__ as make_dataset
from train.make_dataset.clip_art import is_caption, title_of
from train.make_dataset.composition import SHARES, combinations_held_out
from train.make_dataset.emoji import STYLES, TONES, Drawing, caption_of, subject_of
from train.make_dataset.iconify import IconSet, find_packages

needs_resvg = pytest.mark.skipif(not can_render_svg(), reason="needs resvg-py")
TONE_CODES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
PEOPLE, THINGS = 6, 30


def square(color):
    return f'<path fill="{color}" d="M0 0h8v16H0z"/>'


def hexcode(number, tone=None):
    return f"{0x1F000 + number:X}" + ("" if tone is None else f"-{TONE_CODES[tone]}-FE0F")


def subjects():
    """(number, label, has tones)."""
    return [(i, f"person {i}: running", True) for i in range(PEOPLE)] + [
        (100 + i, f"flag: land {i}" if i == 5 else f"thing {i}", False) for i in range(THINGS)
    ]


def package_of(style):
    """The files of a package of drawings. Two things look alike in the style twemoji."""
    icons, chars = {}, {"1F1E6": "letter"}
    icons["letter"] = {"body": square("#000000")}
    for number, label, tones in subjects():
        for tone in (None, *range(5)) if tones else (None,):
            name = f"{label}-{tone}".replace(" ", "-")
            shade = 40 * (list(STYLES).index(style) + 1)
            alike = style == "twemoji" and number == 101
            color = f"#{100 if alike else number:02x}{0 if tone is None else tone + 1:02x}{shade:x}"
            icons[name] = {"body": square(color)}
            chars[hexcode(number, tone).lower().replace("-fe0f", "")] = name
    return {
        "package.json": {"name": STYLES[style].package, "version": "9.9"},
        "icons.json": {"icons": icons, "width": 16, "height": 16},
        "chars.json": chars,
    }


def names_package():
    emoji = [{"label": "regional indicator A", "hexcode": "1F1E6"}]
    for number, label, tones in subjects():
        emoji.append({"label": label, "hexcode": hexcode(number)})
        if number < 120:  # the last ones have no group
            emoji[-1]["group"] = 1 if tones else 7
        if tones:
            emoji[-1]["skins"] = [
                {"label": f"{label}: x", "hexcode": hexcode(number, tone), "tone": tone + 1}
                for tone in range(5)
            ]
    return {
        "package.json": {"name": "emojibase-data", "version": "17.0.0"},
        "en/data.json": emoji,
    }


def write_package(place, files):
    """Write a package as a folder, or as npm's archive."""
    files = {name: json.dumps(content).encode() for name, content in files.items()}
    if place.suffix != ".tgz":
        for name, content in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        return
    with tarfile.open(place, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with the packages in the three forms in which they may lie there."""
    folder = tmp_path_factory.mktemp("packages")
    for style, place in {
        "noto": "noto.tgz",
        "twemoji": "node_modules/@iconify-json/twemoji",
        "openmoji": "openmoji/package",
        "fluent": "fluent.tgz",
    }.items():
        write_package(folder / place, package_of(style))
    write_package(folder / "emojibase-data-17.0.0.tgz", names_package())
    return folder


def run(*arguments):
    make_dataset.main([str(argument) for argument in arguments])


def rows_of(folder):
    return {
        split: [json.loads(line) for line in (folder / split / "metadata.jsonl").open()]
        for split in ("train", "test")
    }


@pytest.fixture(scope="module")
def emoji(packages, tmp_path_factory):
    if not can_render_svg():
        pytest.skip("needs resvg-py")
    out = tmp_path_factory.mktemp("made") / "emoji"
    run("emoji", "--packages", packages, "--output-dir", out, "--size", 16)
    return out


# ---------------------------------------------------------------- names and drawings


@pytest.mark.parametrize(
    "label, subject",
    [
        ("green apple", "green apple"),
        ("flag: Côte d’Ivoire", "flag of Côte d’Ivoire"),
        ("keycap: 7", "keycap 7"),
        ("kiss: woman, man", "kiss, woman and man"),
        ("family: man, woman, girl, boy", "family, man, woman, girl and boy"),
        ("man: beard", "man, beard"),
    ],
)
def test_a_label_in_words(label, subject):
    assert subject_of(label) == subject


def test_captions_compose():
    assert caption_of("green apple", "openmoji", None) == "green apple, openmoji style"
    said = caption_of("woman running", "noto", "medium-dark")
    assert said == "woman running, noto style, medium-dark skin tone"
    assert caption_of("kiss", "noto", "dark and light").endswith("dark and light skin tones")


CORNER = '<path fill="red" d="M0 0h4v8H0z"/>'  # at the left, in the upper half


@needs_resvg
@pytest.mark.parametrize(
    "alias, x, y",  # where it is red, of 4 x 4 fields
    [
        ({}, 0, 0),
        ({"hFlip": True}, 3, 0),
        ({"vFlip": True}, 0, 3),
        ({"rotate": 1}, 3, 0),
        ({"rotate": 2}, 3, 3),
        ({"rotate": 3}, 0, 3),
        ({"hFlip": True, "vFlip": True}, 3, 3),
    ],
)
def test_an_alias_flips_and_turns_its_parent(alias, x, y):
    values = {
        "icons": {"a": {"body": CORNER}},
        "aliases": {"b": {"parent": "a", **alias}, "c": {"parent": "b"}, "d": {"parent": "d"}},
        "width": 16,
        "height": 16,
    }
    icons = IconSet.of(values)
    alpha = np.asarray(render_svg(icons.svg("c"), 16))[..., 3]
    fields = alpha.reshape(4, 4, 4, 4).mean((1, 3))
    assert fields[y, x] == 255 and fields[3 - y, 3 - x] == 0
    for name in ("d", "gone"):
        with pytest.raises(ValueError, match="there is no drawing"):
            icons.svg(name)


@needs_resvg
def test_a_drawing_that_is_turned_lies_in_a_box_that_is_turned():
    icons = IconSet.of(
        {
            "icons": {"a": {"body": '<path fill="red" d="M2 0h8v20H2z"/>', "left": 2, "width": 8}},
            "aliases": {"b": {"parent": "a", "rotate": 1}},
            "height": 20,
        }
    )
    for name, size in (("a", (8, 20)), ("b", (20, 8))):
        image = render_svg(icons.svg(name), 20)
        assert image.size == size and image.getextrema()[3] == (255, 255)


def test_packages_are_found_in_folders_and_archives(packages):
    names = {STYLES[style].package for style in STYLES} | {"emojibase-data"}
    assert set(find_packages([packages])) == names
    assert set(find_packages([packages / "noto.tgz"])) == {"@iconify-json/noto"}


# ---------------------------------------------------------------- what is held out


def drawings_of(n, seed=0):
    rng = random.Random(seed)
    found = []
    for i in range(n):
        tones = (None, *TONES) if i % 3 == 0 else (None,)
        if i % 50 == 0:
            tones += ("light and dark",)
        for style in rng.sample(list(STYLES), rng.choice((1, 2, 4))):
            found += [Drawing(style, f"s{i}", t, f"{i}-{t}", "") for t in tones]
    return found


def test_each_combination_held_out_has_parts_that_are_trained_on():
    drawings = drawings_of(1500)
    merged = set(random.Random(1).sample(drawings, 200))
    held_out = combinations_held_out(drawings, merged)
    train = [d for d in drawings if d not in held_out]
    seen = {
        kind: {tuple(getattr(d, name) for name in kind) for d in train}
        for kind in (("subject", "style"), ("subject", "tone"), ("subject", "tone", "style"))
    }
    subject_style, subject_tone, triples = seen.values()
    counts = Counter(held_out.values())
    assert set(counts) == set(SHARES) and not merged & set(held_out)
    assert len(held_out) <= 0.06 * len(drawings)
    assert all(counts[why] > 0.8 * share * len(drawings) for why, share in SHARES.items())
    for d, reason in held_out.items():
        assert (d.subject, d.tone, d.style) not in triples
        shown_in_style = (d.subject, d.style) in subject_style
        shown_in_tone = (d.subject, d.tone) in subject_tone
        expected = {
            "subject x style": (False, True),
            "subject x tone": (True, False),
            "subject x tone x style": (True, True),
        }
        assert (shown_in_style, shown_in_tone) == expected[reason]
    # a function of the words alone
    shuffled = random.Random(2).sample(drawings, len(drawings))
    assert combinations_held_out(shuffled, merged) == held_out


def test_of_one_style_and_without_tones_nothing_can_be_held_out():
    assert combinations_held_out([Drawing("noto", f"s{i}", None, "", "") for i in range(99)]) == {}


# ---------------------------------------------------------------- the folder


def test_the_folder_has_every_drawing_once_with_its_caption_style_and_tone(emoji):
    rows = rows_of(emoji)
    both = rows["train"] + rows["test"]
    per_style = PEOPLE * 6 + THINGS
    assert len(both) == 4 * per_style - 1  # two are alike
    twins = [row for row in both if isinstance(row["text"], list)]
    assert [row["text"] for row in twins] == [["thing 0, twemoji style", "thing 1, twemoji style"]]
    assert twins[0]["subject"] == ["thing 0", "thing 1"] and twins[0] in rows["train"]
    for row in both:
        if row is not twins[0]:
            assert row["text"] == caption_of(row["subject"], row["style"], row["tone"])
            number = int(row["code"].split("-")[0], 16) - 0x1F000
            group = "people" if number < PEOPLE else "objects"
            assert row["group"] == (group if number < 120 else None)
    assert {row["split_reason"] for row in rows["test"]} <= set(SHARES)
    assert not any("split_reason" in row for row in rows["train"])
    captions = [
        {c for row in rows[s] for c in np.atleast_1d(row["text"])} for s in ("train", "test")
    ]
    assert rows["test"] and not captions[0] & captions[1]
    assert "flag of land 5, noto style" in captions[0] | captions[1]
    assert not any("regional" in caption for of in captions for caption in of)


def test_its_images_are_those_of_the_captions_and_transparent(emoji):
    for split, rows in rows_of(emoji).items():
        for row in rows:
            code = np.atleast_1d(row["code"])[0]  # of the first, where several are alike
            number = int(code.split("-")[0], 16) - 0x1F000
            with Image.open(emoji / split / row["file_name"]) as image:
                assert image.mode == "RGBA" and image.size == (16, 16)
                red, green, blue, alpha = image.getpixel((2, 8))
                assert image.getpixel((12, 8))[3] == 0 and alpha == 255
            assert (red, green) == (number, TONES.index(row["tone"]) + 1 if row["tone"] else 0)
            assert blue == 40 * (list(STYLES).index(row["style"]) + 1)


def test_it_can_be_trained_on_and_has_nothing_to_complain_of(emoji, encoder):
    report, _ = check_dataset.check(emoji, encoder, progress=False)
    assert report.problems == [] and not any("no row names it" in note for note in report.notes)
    rows, problems = read_metadata(emoji)
    assert problems == [] and unlisted(emoji, rows) == []
    data = ImageFolderDataset(emoji, (8,), progress=False)
    apart = ImageFolderDataset(emoji, (8,), progress=False, part="held_out")
    assert (len(data), len(apart)) == tuple(len(of) for of in rows_of(emoji).values())


def test_licences_lie_beside_the_images(emoji):
    for style, of in STYLES.items():
        text = (emoji / "train" / style / "LICENSE.txt").read_text()
        assert of.license in text and of.author in text and of.url in text
        assert f"{of.package} 9.9 were rendered at 16 x 16" in text


@needs_resvg
def test_an_interrupted_build_leaves_nothing_in_its_place_and_goes_on(
    packages, emoji, tmp_path, monkeypatch
):
    out, made = tmp_path / "new" / "emoji", []

    def render(svg, size, stop_after=7):
        if len(made) == stop_after:
            raise KeyboardInterrupt
        made.append(svg)
        return render_all(svg, size)

    render_all = make_dataset.render_svg_png
    arguments = ["emoji", "--packages", packages, "--output-dir", out, "--size", 16]
    monkeypatch.setattr(make_dataset, "render_svg_png", render)
    with pytest.raises(KeyboardInterrupt):
        run(*arguments)
    assert not out.exists() and len(made) == 7
    # while the images are put in their places
    place = make_dataset.place_images
    monkeypatch.setattr(make_dataset, "render_svg_png", lambda *a: render(*a, stop_after=None))
    monkeypatch.setattr(make_dataset, "place_images", lambda *a: (place(*a), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        run(*arguments)
    assert not out.exists() and len(made) == 4 * (PEOPLE * 6 + THINGS)  # none twice
    monkeypatch.setattr(make_dataset, "place_images", place)
    run(*arguments)
    assert len(made) == 4 * (PEOPLE * 6 + THINGS) + 1  # the twin, which had been removed
    files = [p.relative_to(emoji) for p in sorted(emoji.rglob("*")) if ".prepared" not in p.parts]
    assert [p.relative_to(out) for p in sorted(out.rglob("*"))] == files
    assert all((out / f).read_bytes() == (emoji / f).read_bytes() for f in files if f.suffix)
    assert [p.name for p in out.parent.iterdir()] == ["emoji"]
    with pytest.raises(SystemExit, match="is there already; expected a new folder"):
        run(*arguments)


@needs_resvg
def test_other_settings_do_not_go_on_in_what_was_interrupted(packages, tmp_path, monkeypatch):
    out = tmp_path / "emoji"
    render = make_dataset.render_svg_png
    monkeypatch.setattr(make_dataset, "render_svg_png", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("emoji", "--packages", packages, "--output-dir", out, "--size", 16)
    monkeypatch.setattr(make_dataset, "render_svg_png", render)
    options = ["--size", 8, "--background", "white", "--styles", "noto", "--limit", 20]
    run("emoji", "--packages", packages, "--output-dir", out, *options)
    rows = rows_of(out)
    assert {row["style"] for row in rows["train"]} == {"noto"}
    assert 20 <= sum(map(len, rows.values())) < 20 + 6  # whole subjects
    with Image.open(out / "train" / rows["train"][0]["file_name"]) as image:
        assert (image.mode, image.size, image.getpixel((6, 4))) == ("RGB", (8, 8), (255,) * 3)


@needs_resvg
def test_a_drawing_that_cannot_be_rendered_is_named_and_left_out(
    packages, tmp_path, monkeypatch, capsys
):
    render = make_dataset.render_svg_png

    def some(svg, size):
        if "#6600" in svg:  # thing 2
            raise ValueError("no good")
        return render(svg, size)

    monkeypatch.setattr(make_dataset, "render_svg_png", some)
    run("emoji", "--packages", packages, "--output-dir", tmp_path / "e", "--size", 8)
    assert "left out: thing 2, noto style: no good" in capsys.readouterr().out
    rows = rows_of(tmp_path / "e")
    assert not any(row["subject"] == "thing 2" for of in rows.values() for row in of)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["emoji", "--styles", "noto", "fluent"],
            r"data/packages has no @iconify-json/noto.*emojibase-data.*npm pack --pack-destination "
            r"data/packages @iconify-json/noto@1.2.9 .*flat@1.2.6 emojibase-data@17.0.0",
        ),
        (["tuxpaint"], "is no folder; expected .*apt install tuxpaint-stamps-default"),
        (["openclipart", "--source", "."], "no captioned images; .*apt install openclipart-svg"),
        (["emoji", "--font", "no.ttf"], "no.ttf cannot be used"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_fetches_it(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(make_dataset, "can_render_svg", lambda: True)
    with pytest.raises(SystemExit, match=f"(?s){message}"):
        run(*arguments, "--output-dir", "out")
    assert not Path("out").exists()


def test_without_the_renderer_it_says_what_to_install(packages, tmp_path, monkeypatch):
    monkeypatch.setattr(make_dataset, "can_render_svg", lambda: False)
    with pytest.raises(SystemExit, match=r"resvg-py: pip install -e \".\[svg\]\""):
        run("emoji", "--packages", packages, "--output-dir", tmp_path / "e")


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_package_that_is_damaged_is_named(packages, tmp_path, damage, monkeypatch):
    monkeypatch.setattr(make_dataset, "can_render_svg", lambda: True)
    broken = {"package.json": {"name": "@iconify-json/noto", "version": "1"}}
    if damage == "cut":
        write_package(
            tmp_path / "noto.tgz",
            broken | {"icons.json": random.Random(0).sample(range(10**6), 10**4)},
        )
        content = (tmp_path / "noto.tgz").read_bytes()
        (tmp_path / "noto.tgz").write_bytes(content[: len(content) // 2])
        message = "noto.tgz cannot be read .*; fetch it again"
    else:
        write_package(tmp_path / "noto", broken | {"icons.json": []})
        message = "noto holds no drawings in Iconify's format"
    places = [tmp_path, packages / "emojibase-data-17.0.0.tgz"]
    with pytest.raises(SystemExit, match=message):
        run("emoji", "--styles", "noto", "--packages", *places, "--output-dir", tmp_path / "e")


# ---------------------------------------------------------------- collections


@needs_resvg
def test_stamps_have_the_first_line_of_their_text_as_caption(tmp_path, capsys):
    stamps = tmp_path / "stamps" / "animals"
    stamps.mkdir(parents=True)
    for name, color in (("cow", "red"), ("ox", "red"), ("pig", "blue")):
        Image.new("RGBA", (9, 8), color).save(stamps / f"{name}.png")
        (stamps / f"{name}.txt").write_text(f"A {name}.\nde.utf8=Ein Tier.\n")
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    (stamps / "bee.svg").write_text(f"{drawing}{square('blue')}</svg>")
    (stamps / "bee.txt").write_text("A bee.")
    (stamps / "pig.svg").write_text("the image beside it is taken")
    (stamps / "gnu_mirror.png").write_bytes(b"without a text")
    Path(stamps / "bad.png").write_bytes(b"no image")
    (stamps / "bad.txt").write_text("A bad one.")
    arguments = ["--source", tmp_path / "stamps", "--size", 32]
    run("tuxpaint", *arguments, "--output-dir", tmp_path / "out")
    said = capsys.readouterr().out
    assert "3 images of Tux Paint stamps; 4 files, 1 of them the same as another" in said
    assert "left out: A bad one: " in said and "General Public License" in said
    rows, problems = read_metadata(tmp_path / "out")
    assert problems == [] and {row.name: row.captions for row in rows} == {
        "animals_bee.png": ("A bee",),
        "animals_cow.png": ("A cow", "A ox"),
        "animals_pig.png": ("A pig",),
    }
    assert Image.open(rows[0].path).size == (32, 32) and Image.open(rows[1].path).size == (9, 8)


@pytest.mark.parametrize(
    "svg, title",
    [
        ("<svg><rdf><dc:title>Apple &amp;\n Pie</dc:title><dc:title>Me</dc:title></rdf></svg>", 0),
        ("<svg><title>Apple_&#38; Pie 02</title></svg>", 0),
        ("<svg><dc:title><rdf:li>Apple &amp; Pie</rdf:li></dc:title></svg>", 0),
        ("<svg><g/></svg>", 1),
    ],
)
def test_the_title_of_a_drawing_in_plain_words(svg, title):
    assert title_of(svg) == ("Apple & Pie", "")[title]


def test_titles_of_sets_and_codes_are_no_captions():
    assert is_caption("Red Flower") and is_caption("Ö")
    for title in ("", "AB-12345", "Clipart by Somebody", "Flat Icon Collection", "x" * 99):
        assert not is_caption(title)


@needs_resvg
def test_clip_art_leaves_out_titles_that_many_share(tmp_path):
    for i in range(7):
        title = "a card" if i < 4 else f"thing {'xyz'[i - 4]}"
        (tmp_path / "svg").mkdir(exist_ok=True)
        (tmp_path / "svg" / f"{i}.svg").write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:dc="d" viewBox="0 0 16 16"><dc:title>'
            f"{title}</dc:title>{square(f'#{i}{i}0000')}</svg>"
        )
    source = ["--source", tmp_path / "svg", "--output-dir", tmp_path / "out", "--size", 16]
    run("openclipart", *source)
    rows, _ = read_metadata(tmp_path / "out")
    assert [row.captions for row in rows] == [("thing x",), ("thing y",), ("thing z",)]
