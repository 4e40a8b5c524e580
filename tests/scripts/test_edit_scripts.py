"""Scripts that ask what edits are due to: activation patching, and attention beside switching."""

import json
from argparse import Namespace
from copy import deepcopy

import pytest
import torch
from PIL import Image

from imagen_mini.editing.blending import DiffEditMask
from imagen_mini.editing.feature_injection import FeatureInjection
from imagen_mini.editing.given_images import Imagic
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace
from imagen_mini.evaluation.edit_comparison import METHODS
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.utils.images import to_image
from sample import attention_edits, edit, edit_gallery, edit_patching, image_edits, plug_and_play
from sample.edit_image import resolve_image_edit, resolve_image_method

SOURCE, TARGET = "a red circle above a blue square", "a green circle above a blue square"
OPTIONS = {"seed": 1, "stages": ("base",), "num_inference_steps": 3} | {
    "progress": False,
    "output_type": "pt",
}


@pytest.fixture(scope="module")
def exact_pipe(tiny_pipe):
    pipe = deepcopy(tiny_pipe)
    pipe.stages["base"].double()
    return pipe


@pytest.fixture(scope="module")
def folder(tiny_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipe.save_pretrained(folder)
    return str(folder)


# ---------------------------------------------------------------- what carries the layout


def patched(pipe, target, *patches, kind=Replace):
    net = pipe.stages["base"].net
    edit = edit_patching.Patching(kind, list(patches), net.prepare_text)
    return pipe([SOURCE, *[target] * len(patches)], edit=edit, **OPTIONS).stages["base"]


def all_patches(pipe):
    return edit_patching.patches(pipe.stages["base"].config.unet.grids)


@pytest.mark.parametrize(
    "kind, target", [(Replace, TARGET), (Refine, SOURCE.replace("red", "large red"))]
)
def test_without_a_patch_it_is_the_injection_of_all_maps(exact_pipe, kind, target):
    expected = exact_pipe([SOURCE, target], edit=kind(1.0, 1.0), **OPTIONS).stages["base"]
    seen = patched(exact_pipe, target, edit_patching.NOTHING, kind=kind)
    assert (seen - expected).abs().max() < 1e-9


def test_patches_from_the_same_prompt_change_nothing(exact_pipe):
    source, *rows = patched(exact_pipe, SOURCE, *all_patches(exact_pipe), kind=Refine)
    assert all((row - source).abs().max() < 1e-9 for row in rows)


def test_each_patch_acts_in_its_own_row_alone(exact_pipe):
    names = all_patches(exact_pipe)
    source, nothing, *rows = patched(exact_pipe, TARGET, *names)
    for name, row in zip(names[1:], rows):
        alone = patched(exact_pipe, TARGET, name)
        assert (alone[0] - source).abs().max() < 1e-9
        assert (alone[1] - row).abs().max() < 1e-9, name
        assert (row - nothing).abs().max() > 1e-7, name


def test_patched_values_of_all_words_and_of_the_pooled_vector_undo_a_swap(exact_pipe):
    """With maps, values and pooled vector of the source nothing of the target is left."""
    net = exact_pipe.stages["base"].net
    edit = edit_patching.Patching(Replace, ["all"], net.prepare_text)

    class All(edit_patching.PatchedInjection):
        def rows(self, patch):
            parts = (edit_patching.VALUES, edit_patching.NEW_VALUES, edit_patching.POOLED)
            return [1] if patch in parts else []

    bind = edit_patching.Patching.bind
    tokens_of = [exact_pipe.text_encoder.tokenize_prompt(p) for p in (SOURCE, TARGET)]
    control = bind(edit, tokens_of, net.sites, len(tokens_of[0].ids)).control
    control = All(["all"], control.injection, control.mapper, net.prepare_text)
    bound = edit_patching.BoundPatching(control)

    class Bound(edit_patching.Edit):
        def bind(self, *_):
            return bound

    source, target = exact_pipe([SOURCE, TARGET], edit=Bound(), **OPTIONS).stages["base"]
    assert (source - target).abs().max() < 1e-9


def test_patching_counts_repaired_and_broken_edits(folder, tmp_path, capsys):
    edit_patching.main(
        ["--n", "1", "--kinds", "color swap", "--pipeline", folder, "--out", str(tmp_path)]
    )
    rows = json.loads((tmp_path / "edit_patching.json").read_text())["kinds"]["color swap"]
    assert list(rows)[:3] == ["nothing", "queries", "self-attention values"]
    assert all({"good", "repaired", "broken"} <= set(row) for row in rows.values())
    assert "  0 show the new prompt; 0 repaired, 0 broken" in capsys.readouterr().out


# ---------------------------------------------------------------- attention beside switching


def test_the_two_alike_differ_in_nothing_and_one_gets_another_colour():
    tasks = attention_edits.alike(8)
    for task in tasks:
        one, other = task.source.description.objects
        assert one == other
        changed = [a != one for a in task.target.description.objects]
        assert changed == [i == task.obj for i in range(2)]
        assert task.source.text != task.target.text
    assert {task.obj for task in tasks} == {0, 1}


def test_shape_and_colour_of_one_object_are_swapped():
    for task in attention_edits.shape_and_color(8):
        before, after = (c.description.objects for c in (task.source, task.target))
        for i, (a, b) in enumerate(zip(before, after)):
            assert (a.shape != b.shape and a.color != b.color) if i == task.obj else a == b


def test_three_targets_have_one_source_and_three_colours():
    tasks = attention_edits.three_targets(2)
    for of in (tasks[:3], tasks[3:]):
        assert len({(t.source.text, t.seed) for t in of}) == 1 and len(of) == 3
        colors = {t.target.description.objects[t.obj].color for t in of}
        assert len(colors) == 3 and of[0].source.description.objects[of[0].obj].color not in colors


@pytest.mark.parametrize(
    "areas, expected",
    [
        ([0.08, 0.05, 0.03], True),
        ([0.08, 0.03, 0.035], True),  # within the tolerance
        ([0.03, 0.05, 0.08], False),
        ([0.08, 0.03, 0.06, 0.03], False),  # turns back
        ([0.05, 0.05, 0.045], False),  # hardly moves
    ],
)
def test_a_slider_falls_and_does_not_turn_back(areas, expected):
    assert attention_edits.slides(areas) is expected


@pytest.mark.parametrize("wrong_target", [False, True])
def test_a_source_is_good_if_all_of_its_targets_are(monkeypatch, tiny_pipe, wrong_target):
    """Images of the true scenes, but for the second target of attention, which is the source."""
    use = attention_edits.uses(1)["three targets"]
    objects = [
        c.description.objects[0] for c in [use.tasks[0].source, *(t.target for t in use.tasks)]
    ]
    true = render(
        [
            Scene((SceneObject(30, 30, o.shape, o.color, "large", "solid"),), "gray")
            for o in objects
        ],
        64,
    )

    def made(pipe, use, tasks):
        images = {method: true.clone() for method in METHODS}
        if wrong_target:
            images["attention"][2] = true[0]
        return images

    monkeypatch.setattr(attention_edits, "generate_edits", made)
    rows, shown = attention_edits.measure(tiny_pipe, use, "three targets")
    assert {m: row["good_sources"] for m, row in rows.items()} == {
        m: int(not (wrong_target and m == "attention")) for m in METHODS
    }
    assert all(row["sources"] == 1 for row in rows.values()) and len(shown) == 1 + len(METHODS)


@pytest.mark.slow
def test_a_later_stage_is_edited_from_one_low_resolution_image(tiny_pipe):
    use = attention_edits.uses(1)["at 256 px"]
    made = attention_edits.generate_edits(tiny_pipe, use, use.tasks)
    assert all(images.shape == (2, 3, 256, 256) for images in made.values())
    sources = [images[0] for images in made.values()]
    assert all((source - sources[0]).abs().max() < 1e-3 for source in sources)
    small = [torch.nn.functional.avg_pool2d(images, 4) for images in made.values()]
    assert all((pair[0] - pair[1]).abs().mean() < 0.2 for pair in small)


@pytest.mark.slow
def test_attention_edits_writes_every_row(folder, tmp_path, capsys):
    attention_edits.main(["--n", "1", "--pipeline", folder, "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "attention_edits.json").read_text())["rows"]
    assert list(rows) == [*attention_edits.uses(0), "slider"]
    assert all(set(of) == set(METHODS) for name, of in rows.items() if name != "slider")
    assert set(rows["slider"]) == {"prompt switching", "attention", "switching, then attention"}
    assert "attention_edits.png" in capsys.readouterr().out


# ---------------------------------------------------------------- the command line of edits


def asked_for(monkeypatch, *options):
    """The edit that `sample.edit replace` is asked for."""
    found, resolve = [], edit.resolve_edit

    def capture(args):
        found.append(resolve(args))
        raise SystemExit

    monkeypatch.setattr(edit, "resolve_edit", capture)
    with pytest.raises(SystemExit):
        edit.main(["replace", SOURCE, TARGET, *options])
    monkeypatch.undo()
    return found[0][1]


def test_by_default_attention_is_injected_and_nothing_else(monkeypatch):
    (injection,) = asked_for(monkeypatch).edits
    assert injection == Replace()


@pytest.mark.parametrize(
    "option", ["--prompt-switching", "--shared-prompt-steps", "--source-steps"]
)
def test_prompt_switching_is_asked_for_by_its_name_and_by_its_former_names(monkeypatch, option):
    assert asked_for(monkeypatch, option, "0.8").edits == (Replace(1.0), PromptSwitching(0.8))
    assert PromptSwitching((0.2, 0.6)) in asked_for(monkeypatch, option, "0.2,0.6").edits
    assert asked_for(monkeypatch, option, "0").edits == (Replace(),)


def test_windows_that_are_given_stay_beside_prompt_switching(monkeypatch):
    given = ("--prompt-switching", "0.5", "--cross-steps", "0.7", "--self-steps", "0.6")
    assert asked_for(monkeypatch, *given).edits == (Replace(0.7, 0.6), PromptSwitching(0.5))


def test_features_are_injected_where_they_are_asked_for(monkeypatch):
    masked = asked_for(monkeypatch, "--features", "--diff-blend").edits
    assert masked == (Replace(), FeatureInjection(), DiffEditMask())
    assert FeatureInjection((0.1, 0.6)) in asked_for(monkeypatch, "--features", "0.1,0.6").edits


def test_blends_are_chained(monkeypatch):
    edits = asked_for(monkeypatch, "--prompt-switching", "0.5", "--local-blend", "circle").edits
    assert [type(e).__name__ for e in edits] == ["Replace", "PromptSwitching", "LocalBlend"]


# ---------------------------------------------------------------- given images


def size(path):
    """Width and height of an image file."""
    with Image.open(path) as image:
        return image.size


def read(path):
    return json.loads(path.read_text())


def test_a_given_image_is_edited_from_the_command_line(folder, tmp_path, capsys):
    scene = Scene((SceneObject(30, 30, "circle", "red", "large", "solid"),), "white")
    given, mask = tmp_path / "given.png", tmp_path / "mask.png"
    to_image(render(scene, 64)[0]).save(given)
    white = Image.new("L", (64, 64), 0)
    white.paste(255, (16, 16, 48, 48))
    white.save(mask)
    common = ["--pipeline", folder, "--base-only", "--steps", "3", "--out", str(tmp_path / "e.png")]
    prompts = [str(given), "a red circle", "a red star"]
    for options in (
        [],
        ["--method", "edict", "--edit", "switching"],
        ["--method", "pnp"],
        ["--method", "blend", "--mask", str(mask)],
        ["--method", "repaint", "--mask-words", "circle"],
        ["--method", "blend", "--mask-by-prompts", "--strength", "0.5"],
    ):
        edit.main(["image", *prompts, *options, *common])
        printed = capsys.readouterr().out
        assert "given: 'a red circle': correct" in printed and "edit: 'a red star': " in printed
        assert size(tmp_path / "e.png")[0] > 4 * 256
    for options, message in (
        (["--method", "blend"], "needs a mask"),
        (["--method", "sdedit", "--edit", "attention"], "edit=Replace"),
        (["--negative-prompt", "a ring"], "--negative-prompt is not used"),
        (["--sampler", "heun"], "an inversion retraces the steps of ddim"),
        (["--interpolation", "0.5"], "expected --method imagic"),
        (["--method", "pnp", "--edit", "none"], "its own edit: take --method direct"),
    ):
        with pytest.raises(ValueError, match=message):
            edit.main(["image", *prompts, *options, *common])


ADDED = "a red circle on a white background"


@pytest.mark.parametrize(
    "name, target, expected",
    [
        ("attention", "a red star", Replace()),
        ("features", "a red star", Chain(Replace(), FeatureInjection())),
        ("features-mask", ADDED, Chain(Refine(), FeatureInjection(), DiffEditMask())),
        ("switching", "a red star", PromptSwitching()),
        ("none", "a red star", None),
    ],
)
def test_the_edit_of_a_given_image_goes_by_its_name(name, target, expected):
    asked = Namespace(method="negative-prompt", source="a red circle", target=target, edit=name)
    assert resolve_image_edit(asked) == expected


def test_how_far_imagic_goes_is_an_option():
    asked = Namespace(method="imagic", interpolation=0.5)
    assert resolve_image_method(asked) == Imagic(0.5)
    assert resolve_image_method(Namespace(method="imagic")) == "imagic"


ASKED = ["--n", "1", "--images", "1", "--kinds", "shape swap", "--steps", "3", "--scales", "1", "3"]
ASKED += ["--inversions", "ddim", "edict"]
FOUR = ["own sample, switching", "seed alone", "edict, attention", "blend, painted mask"]


def test_every_method_is_scored_on_rendered_images(folder, tmp_path, capsys):
    image_edits.main([*ASKED, "--rows", *FOUR, "--pipeline", folder, "--out", str(tmp_path)])
    report = read(tmp_path / "image_edits.json")["pipelines"][folder]
    rows = report["edits"]["kinds"]["shape swap"]
    assert list(rows) == list(report["edits"]["memory"]) == FOUR
    assert report["edits"]["all"] == rows  # of one kind
    assert all(rows[name]["source_right"] == 1 for name in FOUR[1:])  # the image is true
    blended = rows["blend, painted mask"]
    assert blended["outside"] == 0 and rows["edict, attention"]["outside"] > 0.1
    assert blended["structure"] > 0 and blended["seam"] is not None
    memory = report["edits"]["memory"]
    assert memory["edict, attention"] > memory["seed alone"] > 4 * 3 * 64 * 64
    back = {(r["method"], r["w"], r["strength"]): r for r in report["reconstruction"]}
    assert set(back) == {
        (method, w, s) for method, w in (("ddim", 1), ("ddim", 3), ("edict", 3)) for s in (1, 0.9)
    }
    assert back["edict", 3, 1]["psnr"] > 80 and back["edict", 3, 1]["right"] == 1
    assert back["ddim", 3, 1]["psnr"] < 40
    assert size(tmp_path / "image_edits.png")[0] > 4 * 112
    page = (tmp_path / "image_edits.md").read_text()
    assert page in capsys.readouterr().out and "| edict, attention | " in page


def test_an_interrupted_comparison_goes_on_and_measures_nothing_twice(
    folder, tmp_path, monkeypatch
):
    command = [*ASKED, "--parts", "edits", "--pipeline", folder, "--out", str(tmp_path)]
    made = []

    def edit_by(pipe, row, *rest):
        made.append(row.name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return original(pipe, row, *rest)

    original = image_edits.edit_by
    monkeypatch.setattr(image_edits, "edit_by", edit_by)
    two = ["--rows", "seed alone", "blend, painted mask"]
    with pytest.raises(KeyboardInterrupt):
        image_edits.main([*command, *two])
    records = (tmp_path / "image_edits.jsonl").read_text()
    assert len(records.splitlines()) == 1
    image_edits.main([*command, *two])
    assert made == ["seed alone", "blend, painted mask", "blend, painted mask"]
    assert (tmp_path / "image_edits.jsonl").read_text().startswith(records)
    before = read(tmp_path / "image_edits.json")
    image_edits.main([*command, *two])
    assert len(made) == 3 and read(tmp_path / "image_edits.json") == before


def test_several_pipelines_share_a_page(folder, tiny_pipe, tmp_path):
    other = deepcopy(tiny_pipe)
    with torch.no_grad():
        other.stages["base"].net.out.bias.add_(0.5)
    other.save_pretrained(tmp_path / "other")
    rows = ["--parts", "edits", "--rows", "seed alone", "--out", str(tmp_path)]
    image_edits.main([*ASKED, *rows, "--pipeline", folder, "--pipeline", str(tmp_path / "other")])
    found = read(tmp_path / "image_edits.json")["pipelines"]
    assert list(found) == [folder, str(tmp_path / "other")]
    assert len({of["weights"] for of in found.values()}) == 2
    page = (tmp_path / "image_edits.md").read_text()
    assert page.count("world scenes") == 2 and size(tmp_path / "image_edits_2.png")
    with pytest.raises(ValueError, match="--kinds material added: the world scenes"):
        image_edits.main(["--kinds", "material added", *rows, "--pipeline", folder])


@pytest.mark.parametrize("more", [[], ["--method", "attention and features", "--mask"]])
def test_a_sheet_of_edits_shows_as_many_of_each_kind(folder, tmp_path, capsys, more):
    out = tmp_path / "edits.png"
    edit_gallery.main(["--n", "1", "--pipeline", folder, "--out", str(out), *more])
    printed = capsys.readouterr().out
    assert printed.count(" of 1 (") == 5 and "color swap: " in printed
    width, height = size(out)
    assert width > 8 * 160 and height > 2 * 160  # five pairs, four in a row


def test_plug_and_play_is_swept_beside_prompt_to_prompt_and_goes_on(
    folder, tmp_path, monkeypatch, capsys
):
    command = ["--pipeline", folder, "--out", str(tmp_path), "--n", "1", "--kinds", "shape swap"]
    command += ["--features", "1", "--attention", "0.5", "1", "--steps", "3", "--scenes", "2"]
    command += ["--times", "0.5"]
    plug_and_play.main(command)
    report, page = read(tmp_path / "plug_and_play.json"), capsys.readouterr().out
    features = report["features"]
    assert {row["size"] for row in features} == {4, 8} and len(features) == 2
    assert all(0 <= row["shape"] <= 1 and 0 < row["variance"] <= 1 for row in features)
    names = ["no injection", "Prompt-to-Prompt"]
    names += [f"features to {s} x {s} until 1, attention until 0.5" for s in (4, 8)]
    names += [f"features to 4 x 4 until 0.8, attention until {a}" for a in ("0.5", "1")]
    assert list(report["sweep"]) == names
    assert all(row["source_right"] == 1 for row in report["sweep"].values())
    # what is injected longer or finer is nearer to the source
    assert report["sweep"][names[3]]["structure"] < report["sweep"][names[0]]["structure"]
    for file in ("feature_maps.png", "sweep.png", "side_by_side.png"):
        assert size(tmp_path / file)[0] > 2 * 96
    assert "| up1.block0 | 4 x 4 | 0.5 |" in page and f"| {names[2]} | " in page
    # again: nothing is made anew
    monkeypatch.setattr(plug_and_play, "edit_once", None)
    plug_and_play.main(["--parts", "sweep", *command])
    assert read(tmp_path / "plug_and_play.json")["sweep"] == report["sweep"]
    with pytest.raises(ValueError, match="--kinds material added: the world scenes has none"):
        plug_and_play.main(["--parts", "sweep", *command, "--kinds", "material added"])
