"""Every script, run as a newcomer would, on a tiny untrained pipeline: it ends with the files it
promises.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.scenes import correct_images, one

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.edit_benchmark import edit_tasks, evaluate_edits, swaps
from imagen_mini.rejection_sampling import SEED_STRIDE
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import masks, render
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.upsampling import upsample_caption
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.config import TrainConfig
from imagen_mini.utils.configuration import to_dict
from imagen_mini.weights import WEIGHTS
from sample import (
    activation_patching,
    attention,
    attention_edits,
    benchmark_latency,
    cli,
    compare,
    compare_claims,
    demo,
    edit,
    edit_cascade,
    edit_gallery,
    edit_patching,
    edit_sweep,
    evaluate,
    generate,
    plot_schedules,
    reweight,
    sweep,
)
from sample.claims import __main__ as claims
from train import (
    baselines,
    benchmark_throughput,
    check_dataset,
    download_dataset,
    estimate_cost,
    excess_error,
    export_pipeline,
    make_emoji_dataset,
    model_card,
    overfit,
    profile_step,
    report,
    sample_timeline,
    time_to_score,
    train,
    verify_checkpoints,
)
from train.make_dataset import __main__ as make_dataset


@pytest.fixture(scope="module")
def folder(tiny_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    phase = {"steps": 3, "seconds": 60, "device": "CPU", "train": to_dict(TrainConfig())}
    tiny_pipe.save_pretrained(
        folder, {name: {"training_phases": [phase]} for name in tiny_pipe.stages}
    )
    config = json.loads((folder / "base" / "config.json").read_text())
    # fresh noise, as the shipped base stage has it: scripts must not hand it to samplers that know
    # none
    config["stage"]["eta"] = 1.0
    (folder / "base" / "config.json").write_text(json.dumps(config))
    return str(folder)


def size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


def test_generate_samples_one_caption_at_256_px_and_says_what_it_shows(folder, tmp_path, capsys):
    generate.main(
        [
            "a red circle",
            "--pipeline",
            folder,
            "--steps",
            "2",
            "--out",
            str(tmp_path / "new" / "a.png"),
        ]
    )
    assert size(tmp_path / "new" / "a.png") == (256, 256)
    assert "'a red circle', seed 0: " in capsys.readouterr().out


def test_generate_says_of_a_caption_it_cannot_read_that_it_was_not_judged(folder, tmp_path, capsys):
    generate.main(
        [
            "an astronaut",
            "--pipeline",
            folder,
            "--steps",
            "2",
            "--base-only",
            "--out",
            str(tmp_path / "a.png"),
        ]
    )
    assert size(tmp_path / "a.png") == (64, 64)
    assert "not judged" in capsys.readouterr().out


def test_generate_samples_several_captions_and_seeds_in_one_grid(folder, tmp_path, capsys):
    generate.main(
        [
            "a red circle",
            "two rings",
            "--count",
            "2",
            "--pipeline",
            folder,
            "--steps",
            "2",
            "--out",
            str(tmp_path / "a.png"),
        ]
    )
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()[:4]] == [
        "'a red circle', seed 0",
        "'a red circle', seed 1",
        "'two rings', seed 0",
        "'two rings', seed 1",
    ]
    assert size(tmp_path / "a.png")[0] > 4 * 128


def test_upsampled_captions_are_sampled_and_judged_as_they_were(
    folder, tmp_path, monkeypatch, capsys
):
    """What the pipeline reads states a colour; what is judged is the caption as it was."""
    monkeypatch.setattr(evaluate, "SEARCHED", 300)
    told, call = [], ImagenPipeline.__call__
    monkeypatch.setattr(
        ImagenPipeline, "__call__", lambda self, p, **k: (told.extend(p), call(self, p, **k))[1]
    )
    few = ["--pipeline", folder, "--steps", "1", "--base-only", "--upsample-captions"]
    captions = ["two rings", "a red ring", "an astronaut"]
    generate.main([*captions, *few, "--out", str(tmp_path / "a.png")])
    assert told == [upsample_caption("two rings", 0), "a red ring", "an astronaut"]
    said = capsys.readouterr().out
    assert told[0] != "two rings" and "'two rings', seed 0: " in said
    assert "--upsample-captions" not in said
    few.remove("--upsample-captions")
    for caption, is_open in ("two rings", True), ("a red ring", False):
        generate.main([caption, *few, "--out", str(tmp_path / "a.png")])
        assert ("--upsample-captions" in capsys.readouterr().out) == is_open
    few.append("--upsample-captions")

    told.clear()
    report = tmp_path / "report.json"
    few += ["--only", "captions", "--workers", "1", "--n", "3", "--categories", "1 attribute"]
    evaluate.main([*few, "--out", str(report)])
    prompts = benchmark(3, 0, ["1 attribute"])
    assert told == [upsample_caption(c.text, seed) for _, seed, c in prompts]
    assert read(report)["options"]["upsample_captions"] and read(report)["text_alignment"]
    assert "`--upsample-captions`" in model_card.runs_of(read(report))
    few.remove("--upsample-captions")
    evaluate.main([*few, "--out", str(report)])  # a later run without it takes the mark away
    assert "upsample_captions" not in read(report)["options"]
    assert "--upsample-captions" not in model_card.runs_of(read(report))
    with pytest.raises(SystemExit):
        evaluate.main(["--upsample-captions", "--out", str(report)])
    assert "--upsample-captions is for --only captions" in capsys.readouterr().err


def test_images_are_sampled_again_until_a_reader_accepts_them(
    folder, tiny_pipe, tmp_path, monkeypatch, capsys
):
    """One attempt asks no reader; of several the seed of the accepted one is told."""
    monkeypatch.setattr(evaluate, "SEARCHED", 300)
    asked = []

    def second_time(world):
        return lambda captions, images: (
            asked.append(captions) or [len(asked) % 2 == 0] * len(images)
        )

    for module in (cli, evaluate):
        monkeypatch.setattr(module, "caption_verifier", second_time)
    few = ["--steps", "1", "--base-only"]
    out = ["--out", str(tmp_path / "a.png")]
    generate.main(["a ring", "--pipeline", folder, *few, *out])
    assert not asked and "accepted" not in capsys.readouterr().out
    generate.main(["a ring", "--pipeline", folder, *few, *out, "--attempts", "3", "--seed", "5"])
    said = capsys.readouterr().out
    assert asked == [["a ring"]] * 2 and f"'a ring', seed {SEED_STRIDE + 5}: " in said
    assert "2 images were sampled; 1 of 1 captions" in said

    few += ["--only", "captions", "--workers", "1", "--n", "2", "--categories", "1 attribute"]
    few += ["--out", str(tmp_path / "report.json")]
    with pytest.raises(SystemExit):
        evaluate.main(["--pipeline", folder, *few, "--attempts", "3"])
    assert "what chooses them must not judge them; expected a world with two: studio" in (
        capsys.readouterr().err
    )
    studio = [DiffusionStage(replace(s.config, world="studio")) for s in tiny_pipe.stages.values()]
    ImagenPipeline(tiny_pipe.text_encoder, studio).save_pretrained(tmp_path / "studio")
    few += ["--pipeline", str(tmp_path / "studio")]
    for attempts, sampled in ("3", 4), ("1", 2):
        evaluate.main([*few, "--attempts", attempts])
        report = read(tmp_path / "report.json")
        assert report["images_sampled"] == sampled
        assert report["options"].get("attempts", 1) == int(attempts)
        assert ("`--attempts 3`" in model_card.runs_of(report)) == (attempts == "3")


def test_the_options_of_generate_reach_the_pipeline(folder, tmp_path):
    def generated(*options):
        generate.main(
            [
                "a red circle",
                "--pipeline",
                folder,
                "--steps",
                "4",
                "--base-only",
                "--precision",
                "fp32",
                "--out",
                str(tmp_path / "a.png"),
                *options,
            ]
        )
        with Image.open(tmp_path / "a.png") as image:
            return image.tobytes()

    images = [
        generated(),
        generated("--negative-prompt", "a blue star"),
        generated("--eta", "0.5"),
        generated("--guidance-interval", "0.5,2"),
        generated("--sampler", "ddpm"),
        generated("--sampler", "ddpm", "--gamma", "1"),
        generated("--sampler", "heun"),
    ]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--guidance-interval", "0.5"],
            "'0.5' is no interval; expected two noise levels like 0.2,5",
        ),
        (["--guidance-interval", "a,b"], "'a,b' is no interval"),
        (["--guidance-interval", "1,2,3"], "'1,2,3' is no interval"),
        (["--eta", "high"], "--eta: invalid float value: 'high'"),
    ],
)
def test_an_option_that_cannot_be_read_is_explained(options, message, capsys):
    with pytest.raises(SystemExit):
        generate.main(["a red circle", *options])
    assert message in capsys.readouterr().err


def test_edit_shows_source_edit_and_baseline(folder, tmp_path, capsys):
    edit.main(
        [
            "replace",
            "a red circle",
            "a blue circle",
            "--pipeline",
            folder,
            "--steps",
            "2",
            "--shared-prompt-steps",
            "1",
            "--out",
            str(tmp_path / "e.png"),
        ]
    )
    out = capsys.readouterr().out
    assert all(name in out for name in ("source: ", "edit: ", "same seed: ", "prompt switching: "))
    assert size(tmp_path / "e.png")[0] > 3 * 256 and "no attention maps to show" in out
    height = size(tmp_path / "e.png")[1]
    edit.main(
        [
            "replace",
            "a red circle",
            "a blue circle",
            "--pipeline",
            folder,
            "--steps",
            "12",
            "--out",
            str(tmp_path / "e.png"),
        ]
    )
    assert (
        size(tmp_path / "e.png")[1] > height + 256
        and "no attention maps" not in capsys.readouterr().out
    )


def test_edit_refines_and_reweights(folder, tmp_path, capsys):
    edit.main(
        [
            "refine",
            "a red circle",
            "a red circle on a black background",
            "--pipeline",
            folder,
            "--steps",
            "2",
            "--out",
            str(tmp_path / "r.png"),
        ]
    )
    assert size(tmp_path / "r.png")[0] > 3 * 256 and "same seed: " in capsys.readouterr().out
    edit.main(
        [
            "reweight",
            "a small red circle",
            "--word",
            "small",
            "--scale",
            "-1",
            "0",
            "2",
            "--pipeline",
            folder,
            "--steps",
            "2",
            "--out",
            str(tmp_path / "w.png"),
        ]
    )
    out = capsys.readouterr().out
    assert (
        all(name in out for name in ("source: ", "small x -1: ", "small x 0: ", "small x 2: "))
        and "same seed" not in out
    )
    assert size(tmp_path / "w.png")[0] > 4 * 256
    with pytest.raises(ValueError, match="no word 'blue' in 'a small red circle'"):
        edit.main(
            [
                "reweight",
                "a small red circle",
                "--word",
                "blue",
                "--pipeline",
                folder,
                "--out",
                str(tmp_path / "x.png"),
            ]
        )


def test_demo_writes_its_three_images(folder, tmp_path, capsys):
    demo.main(["--pipeline", folder, "--out", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["caption.png", "captions.png", "edit.png"]
    assert size(tmp_path / "caption.png") == (256, 256)
    assert "s in all" in capsys.readouterr().out


def test_evaluate_reports_and_the_card_repeats_its_numbers(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "SEARCHED", 300)
    report = f"{folder}/report.json"
    evaluate.main(
        [
            "--pipeline",
            folder,
            "--n",
            "2",
            "--edits",
            "1",
            "--steps",
            "2",
            "--categories",
            "one object",
            "texture",
            "--out",
            report,
        ]
    )
    with open(report) as file:
        values = json.load(file)
    assert list(values["text_alignment"]) == ["one object", "texture"]
    assert len(values["edits"]) == 5 * len(evaluate.ALL_METHODS)
    assert all(
        row["n"] == 2 and row["low"] <= row["accuracy"] <= row["high"]
        for row in values["text_alignment"].values()
    )
    assert size(f"{folder}/report.png")[0] > 0
    again = ["--pipeline", folder, "--edits", "2", "--steps", "2", "--only", "edits"]
    evaluate.main([*again, "--out", report])  # the captions stay
    assert "color added: attention" in capsys.readouterr().out
    before, values = values, read(Path(report))
    parts = "edits", "edits_runs"
    assert {k: v for k, v in before.items() if k not in parts} == {
        k: v for k, v in values.items() if k not in parts
    }
    assert {row["n"] for row in values["edits"].values()} == {2}
    assert not list(Path(folder).glob("*.partial.json"))

    by = ["--methods", "attention and features", "attention"]
    evaluate.main([*again, *by, "--out", report])  # and so do the rows of other methods
    runs = [run.pop("methods") for run in read(Path(report))["edits_runs"]]
    assert runs == [
        [m for m in evaluate.ALL_METHODS if m not in by],
        ["attention", "attention and features"],
    ]
    assert read(Path(report))["edits"] == values["edits"]
    assert list(read(Path(report))["edits"]) == list(values["edits"])
    of_folder = {"pipeline": folder, "data": "images"}
    Path(folder, "of_folder.json").write_text(json.dumps(of_folder))
    for wrong, message in (
        (["--edits", "1"], "have 2 there"),
        (["--seed", "1"], "have 0 there"),
        (["--text-encoder", f"{folder}/text_encoder"], "of the text encoder None, and this one is"),
        (["--only", "captions"], "--methods is for --only edits"),
        (["--out", f"{folder}/of_folder.json"], "a report of another kind, without edits"),
    ):
        with pytest.raises(SystemExit):
            evaluate.main([*again, *by, "--out", report, *wrong])
        assert message in capsys.readouterr().err
    values = read(Path(report))

    def stopped(each, name, tasks, methods):
        if name == "shape swap":
            raise KeyboardInterrupt
        return {f"{name}: attention": {"n": 2}}

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "measure_edits", stopped)
        with pytest.raises(KeyboardInterrupt):  # the older report stays, and what was done as well
            evaluate.main([*again, "--out", report])
    assert read(Path(report)) == values
    partial = Path(folder) / "report.partial.json"
    assert list(read(partial)["edits"]) == ["color swap: attention"]
    partial.unlink()
    Path(report).write_text(json.dumps(before))
    other = tmp_path / "other.json"
    for text, message in (('{"pipeline": "x"}', "of the pipeline 'x'"), ("{", "not a report")):
        other.write_text(text)
        with pytest.raises(SystemExit):
            evaluate.main([*again, "--out", str(other)])
        assert message in capsys.readouterr().err and other.read_text() == text
    values = before
    readme = tmp_path / "README.md"
    readme.write_text(
        f"before\n{model_card.CLAIMS_BEGIN}\nolder\n{model_card.CLAIMS_END}\nbetween\n{model_card.BEGIN}\nold\n{model_card.END}\nafter\n"
    )
    claimed = tmp_path.joinpath(folder, "claims")
    claimed.mkdir()
    claimed.joinpath("claims.json").write_text(
        json.dumps(
            {
                "experiments": {
                    "seeds": {"verdicts": [{"claim": "All is one.", "outcome": "unclear"}]}
                }
            }
        )
    )
    model_card.main(["--pipeline", folder, "--readme", str(readme)])
    assert "| All is one. | **unclear** |\n<!-- end of claims -->\nbetween\n" in readme.read_text()
    with open(f"{folder}/README.md") as file:
        written = file.read()
    assert "`python -m sample.evaluate --n 2 --edits 1`" in written
    weak = {
        "text_alignment": {
            "one object": {"accuracy": 0.9},
            "counting": {"accuracy": 0.5},
            "texture": {"accuracy": 0.2},
        },
        "errors": {
            name: {"right": 1, "unreadable": 2, "shape": 1}
            for name in ("one object", "counting", "texture")
        },
    }
    assert model_card.weaknesses(weak) == (
        "- texture: 20% right (2 unreadable, 1 shape)\n- counting: 50% right (2 unreadable, 1 "
        "shape)"
    )
    assert model_card.weaknesses(values) in written and "texture" in model_card.weaknesses(values)
    readme.with_name("other.md").write_text(f"mine {model_card.BEGIN} and more")
    with pytest.raises(SystemExit, match="other.md: the README has no place for a table"):
        model_card.main(
            ["--pipeline", folder, "--readme", str(readme.with_name("other.md")), "--note", "lost"]
        )
    with open(f"{folder}/README.md") as file:
        assert (
            file.read() == written
            and readme.with_name("other.md").read_text() == f"mine {model_card.BEGIN} and more"
        )
    row = values["text_alignment"]["texture"]
    expected = f"| texture | {row['right']} of 2 |"
    assert (
        expected in readme.read_text()
        and readme.read_text().startswith("before\n")
        and readme.read_text().endswith("\nafter\n")
    )
    assert "old" not in readme.read_text()
    with open(f"{folder}/README.md") as file:
        assert expected in file.read()


def read(path):
    with open(path) as file:
        return json.load(file)


def test_edit_shows_the_alignment_and_blends(folder, tmp_path, capsys):
    edit.main(
        [
            "refine",
            "a red circle",
            "a small red star",
            "--local-blend",
            "circle",
            "star",
            "--show-alignment",
            "--pipeline",
            folder,
            "--steps",
            "2",
            "--out",
            str(tmp_path / "e.png"),
        ]
    )
    assert size(tmp_path / "e.png")[0] > 4 * 256 and size(tmp_path / "e_alignment.png")[0] > 300
    assert "e_alignment.png" in capsys.readouterr().out
    edit.main(
        [
            "replace",
            "a red circle",
            "a red star",
            "--diff-blend",
            "--pipeline",
            folder,
            "--steps",
            "2",
            "--out",
            str(tmp_path / "d.png"),
        ]
    )
    assert size(tmp_path / "d.png")[0] > 4 * 256


def test_attention_writes_its_grids_and_says_where_attention_goes(folder, tmp_path, capsys):
    attention.main(["a red circle", "--pipeline", folder, "--steps", "3", "--out", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "heads.png",
        "layers.png",
        "steps.gif",
        "steps.png",
        "tokens.png",
    ]
    shares = [
        float(line.split()[1].rstrip("%"))
        for line in capsys.readouterr().out.splitlines()
        if "of the attention" in line
    ]
    # "a", "red", "circle", the end
    assert len(shares) == 4 and sum(shares) == pytest.approx(100, abs=0.3)
    with Image.open(tmp_path / "steps.gif") as moving:
        assert moving.n_frames == 3


def test_attention_says_that_images_which_show_nothing_cannot_be_judged(folder, tmp_path):
    with pytest.raises(SystemExit, match="none of 2 images shows its caption"):
        attention.main(
            ["--find", "1", "--pipeline", folder, "--steps", "2", "--out", str(tmp_path)]
        )
    assert read(tmp_path / "find.json")["judged"] == 0


def test_maps_are_compared_with_the_objects_of_their_words(folder, tmp_path, monkeypatch):
    """Images that show what was said, and for the maps of the first layer one that is highest on
    the first thing of every caption.
    """
    prompts = benchmark(2, categories=attention.CATEGORIES)
    truth = correct_images(prompts, 64)
    pipe = ImagenPipeline.from_pretrained(folder)
    monkeypatch.setattr(
        pipe, "sample_stage", lambda *args: plain(*args) * 0 + truth(args[1].prompts, args[1].seeds)
    )
    plain = type(pipe).sample_stage.__get__(pipe)
    site = next(s.name for s in pipe.stages["base"].net.sites if s.kind == "cross")

    def of_word(maps, number, row, site, times):
        caption = prompts[row][2]
        (scene,) = [r.scene for r in parse_image(truth([caption.text], [prompts[row][1]]))]
        objects = dict(zip(scene.objects, masks(scene)))
        heat = objects[caption.description.assign(scene)[0]].float()
        return (
            torch.nn.functional.interpolate(heat[None, None], size=(8, 8), mode="area")[0, 0]
            if site == first
            else torch.rand(8, 8)
        )

    first = site
    monkeypatch.setattr(attention.AttentionStore, "word_map", of_word)
    report = attention.measure_localization(
        pipe, prompts, {"stages": ["base"], "output_type": "pt", "num_inference_steps": 2}
    )
    assert report["judged"] == 4
    shapes = report["overlap"]["shape"]
    # the first thing of two is found, the second is not
    assert all(0.4 < step < 0.65 for step in shapes[site])
    attention.plot_find(report, tmp_path / "find.png")
    assert size(tmp_path / "find.png")[0] > 500


@pytest.mark.slow
def test_edit_cascade_judges_each_way_of_upsampling_an_edit(folder, tmp_path, capsys, monkeypatch):
    edit_cascade.main(["--n", "1", "--pipeline", folder, "--out", str(tmp_path)])
    assert (
        list(read(tmp_path / "edit_cascade.json")["ways"]) == list(edit_cascade.WAYS)
        and "no source was correct" in capsys.readouterr().out
    )
    pipe = ImagenPipeline.from_pretrained(folder)
    # enough for some to come after those in which the source's prompt is read
    for stage in pipe.stages.values():
        stage.config = replace(stage.config, num_inference_steps=12)
    source, own, read_source, other_noise, edited = edit_cascade.sample_all(
        pipe, ["a red ring", "a red star"], 1
    )
    assert (
        len({image.numpy().tobytes() for image in (source, own, read_source, other_noise, edited)})
        == 5
    )
    true = correct_images(
        [
            ("", t.seed, c)
            for t in swaps("color", 1) + swaps("shape", 1)
            for c in (t.source, t.target)
        ],
        256,
    )
    monkeypatch.setattr(
        edit_cascade,
        "sample_all",
        lambda pipe, prompts, seed: true([*prompts, *[prompts[1]] * 3], [seed] * 5),
    )
    edit_cascade.main(["--n", "1", "--pipeline", folder, "--out", str(tmp_path)])
    assert (
        all(row["success"] == 1 for row in read(tmp_path / "edit_cascade.json")["ways"].values())
        and size(tmp_path / "edit_cascade.png")[0] > 5 * 192
    )


@pytest.mark.slow
def test_edit_sweep_judges_every_kind_at_every_length(folder, tmp_path, monkeypatch, capsys):
    edit_sweep.main(
        ["--n", "1", "--shares", "1", "0", "--pipeline", folder, "--out", str(tmp_path)]
    )
    report = read(tmp_path / "edit_sweep.json")
    assert (
        report["shares"] == [0, 1]
        and list(report["kinds"]) == list(edit_tasks(0))
        and "no source was correct" in capsys.readouterr().out
    )
    assert (
        all(len(rows) == 2 for of in report["kinds"].values() for rows in of.values())
        and size(tmp_path / "edit_sweep.png")[0] > 500
    )
    pipe = ImagenPipeline.from_pretrained(folder)
    options = {"seed": 1, "stages": ("base",), "progress": False}
    plain = pipe(["a ring", "a star"], **options).stages["base"]
    for name in ("attention", "prompt switching"):  # both begin at the same seed
        edit = edit_sweep.WINDOW_SWEEPS[name](edit_sweep.injection_of("shape swap"), 0.0)
        edited = pipe(["a ring", "a star"], edit=edit, **options).stages["base"]
        assert torch.equal(edited, plain)
    (task,) = edit_tasks(1, 1)["color swap"]
    true = correct_images([("", 0, c) for c in (task.source, task.target)], 64)
    monkeypatch.setattr(
        edit_sweep,
        "evaluate_edits",
        lambda generate, tasks, world: evaluate_edits(
            lambda p, seed: true([p[0], *[p[1]] * 2, *[p[0]] * 8], [seed] * 11), tasks, world
        ),
    )
    rows, (shown, images) = edit_sweep.measure(pipe, "color swap", [task], [0.0, 1.0])
    assert (
        [[row["success"] for row in of] for of in rows.values()]
        == [[1, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
        and shown == task
        and len(images) == 11
    )


def test_an_interrupted_sweep_keeps_the_kinds_that_are_done(folder, tmp_path, monkeypatch):
    measure = edit_sweep.measure

    def stopped(pipe, name, *more):
        if name == "shape swap":
            raise KeyboardInterrupt
        return measure(pipe, name, *more)

    monkeypatch.setattr(edit_sweep, "measure", stopped)
    few = ["--n", "1", "--shares", "0", "--sweeps", "attention"]
    with pytest.raises(KeyboardInterrupt):
        edit_sweep.main([*few, "--pipeline", folder, "--out", str(tmp_path)])
    assert list(read(tmp_path / "edit_sweep.json")["kinds"]) == ["color swap"]
    assert size(tmp_path / "edit_sweep.png")[0] > 200


def test_reweight_measures_what_an_object_covers(folder, tmp_path, capsys):
    reweight.main(["--n", "2", "--pipeline", folder, "--out", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "reweight.json",
        "reweight.png",
        "reweight_images.png",
    ]
    assert (
        list(read(tmp_path / "reweight.json")["words"]) == ["small", "large"]
        and "rank correlation" in capsys.readouterr().out
    )
    scene = Scene((one(),), "white")
    assert reweight.covered_share(render(scene, 64)[0]) == pytest.approx(
        masks(scene).float().mean().item(), rel=0.15
    )
    assert (
        reweight.spearman_with_order(torch.tensor([1.0, 2.0, 5.0])) == 1
        and reweight.spearman_with_order(torch.tensor([3.0, 2.0, 0.0])) == -1
    )


def test_activation_patching_counts_images_that_show_either_prompt(folder, tmp_path, capsys):
    activation_patching.main(["--n", "1", "--pipeline", folder, "--out", str(tmp_path)])
    found = read(tmp_path / "paths.json")
    assert set(found["color"]["ways"]) == {
        "maps",
        "values",
        "pooled",
        "maps + values",
        "maps + pooled",
        "values + pooled",
    }
    assert found["shape"]["both_right"] == 0 and "still its own" in capsys.readouterr().out


def test_sweep_plots_two_figures_and_writes_their_numbers(folder, tmp_path, capsys):
    sweep.main(
        [
            "--pipeline",
            folder,
            "--n",
            "1",
            "--steps",
            "3",
            "1",
            "--samplers",
            "ddim",
            "heun",
            "--scales",
            "1",
            "20",
            "--precision",
            "fp32",
            "--out",
            str(tmp_path / "s"),
        ]
    )
    report = read(tmp_path / "s" / "sweeps.json")
    assert report["stage"] == "base" and report["categories"] == [
        "one object",
        "binding",
        "positional",
        "counting",
    ]
    assert {name: [row["calls"] for row in rows] for name, rows in report["samplers"].items()} == {
        "ddim": [1, 3],
        "heun": [1, 5],
        "ddim, eta 1": [1, 3],
    }
    assert {name: [row["w"] for row in rows] for name, rows in report["thresholds"].items()} == {
        name: [1, 20] for name in ("none", "static", "dynamic")
    }
    for row in sum([*report["samplers"].values(), *report["thresholds"].values()], []):
        assert row["all"]["n"] == 4 and row["all"]["right"] == sum(
            row[category]["right"] for category in report["categories"]
        )
        assert row["all"]["low"] <= row["all"]["accuracy"] <= row["all"]["high"]
    high = {name: rows[1] for name, rows in report["thresholds"].items()}  # at w = 20
    assert high["none"]["mean_abs"] > 1 >= high["static"]["mean_abs"] > high["dynamic"]["mean_abs"]
    assert high["static"]["saturated"] > high["dynamic"]["saturated"]
    assert (
        size(tmp_path / "s" / "samplers.png")[0] > 1000
        and size(tmp_path / "s" / "thresholds.png")[0] > 1000
    )
    assert "heun" in capsys.readouterr().out


def test_sweep_of_super_resolution_judges_textures_on_one_set_of_base_images(
    folder, tmp_path, monkeypatch
):
    generated = []
    sample_stage = ImagenPipeline.sample_stage
    monkeypatch.setattr(
        ImagenPipeline,
        "sample_stage",
        lambda self, name, *args, **options: (
            generated.append(name) or sample_stage(self, name, *args, **options)
        ),
    )
    sweep.main(
        [
            "--pipeline",
            folder,
            "--stage",
            "sr_256",
            "--n",
            "1",
            "--steps",
            "1",
            "2",
            "--samplers",
            "ddim",
            "--scales",
            "1",
            "--thresholds",
            "none",
            "--out",
            str(tmp_path),
        ]
    )
    report = read(tmp_path / "sweeps.json")
    assert report["categories"] == ["texture", "two textures"] and [
        row["calls"] for row in report["samplers"]["ddim"]
    ] == [1, 2]
    assert sorted(generated) == ["base", "sr_256", "sr_256", "sr_256"]


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--scales", "0", "1"], ["--n", "0"]])
def test_sweep_refuses_options_that_do_not_fit(arguments, capsys):
    with pytest.raises(SystemExit):
        sweep.main(arguments)
    assert "expected n and steps of at least 1, and scales above 0" in capsys.readouterr().err


def test_sweep_of_a_stage_that_is_not_there_is_an_error_that_lists_the_stages(folder):
    with pytest.raises(ValueError, match="--stage sr_1024: .* has base, sr_256"):
        sweep.main(["--pipeline", folder, "--stage", "sr_1024"])


def test_training_both_stages_and_exporting_them_makes_a_pipeline(encoder_folder, tmp_path):
    common = [
        "--preset",
        "tiny",
        "--text-encoder",
        str(encoder_folder),
        "steps=2",
        "batch_size=2",
        "sample_every=2",
        "log_every=1",
    ]
    for name in PRESETS["tiny"]:
        train.main(["--stage", name, "--output-dir", str(tmp_path / name), *common])
        assert size(tmp_path / name / "samples_00000002.png")[0] > 0
        lines = [
            json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        assert [line["step"] for line in lines] == [1, 2, 2] and 0 <= lines[-1]["score"] <= 1
    sample_timeline.main(
        [
            str(tmp_path / "base" / "stage"),
            "--text-encoder",
            str(encoder_folder),
            "--n",
            "1",
            "--out",
            str(tmp_path / "p.png"),
        ]
    )
    assert size(tmp_path / "p.png")[0] > 0
    for flag, dtype in (("--bf16", torch.bfloat16), ("--half", torch.float16)):
        export_pipeline.main(
            [
                "--base",
                str(tmp_path / "base"),
                "--sr",
                str(tmp_path / "sr_256"),
                "--text-encoder",
                str(encoder_folder),
                flag,
                "--out",
                str(tmp_path / "pipe"),
            ]
        )
        assert {
            w.dtype for w in load_file(tmp_path / "pipe" / "base" / "model.safetensors").values()
        } == {dtype}
    generate.main(
        [
            "a red circle",
            "--pipeline",
            str(tmp_path / "pipe"),
            "--steps",
            "1",
            "--out",
            str(tmp_path / "a.png"),
        ]
    )
    assert size(tmp_path / "a.png") == (256, 256)


def test_training_may_start_from_the_weights_of_a_stage(encoder_folder, tmp_path):
    common = [
        "--stage",
        "base",
        "--preset",
        "tiny",
        "--text-encoder",
        str(encoder_folder),
        "batch_size=2",
        "sample_every=0",
    ]
    train.main([*common, "--output-dir", str(tmp_path / "first"), "steps=3"])
    train.main(
        [
            *common,
            "--output-dir",
            str(tmp_path / "second"),
            "--init-from",
            str(tmp_path / "first" / "stage"),
            "steps=1",
            "learning_rate=0.0",
        ]
    )
    first, second = (
        load_stage(tmp_path / name / "stage").net.state_dict() for name in ("first", "second")
    )
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    "script, arguments",
    [
        (generate, ["a ring", "--pipeline", "nowhere"]),
        (evaluate, ["--pipeline", "nowhere"]),
        (sweep, ["--pipeline", "nowhere"]),
    ],
)
def test_a_pipeline_that_is_not_there_is_named(script, arguments):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        script.main(arguments)


@pytest.mark.slow
def test_the_sampling_benchmark_counts_calls_and_times_them(folder, tmp_path, capsys):
    benchmark_latency.main(
        [
            "--pipeline",
            folder,
            "--device",
            "cpu",
            "--rounds",
            "2",
            "--batch",
            "1",
            "2",
            "--steps",
            "2",
            "3",
            "--out",
            str(tmp_path / "b.json"),
        ]
    )
    found = json.loads((tmp_path / "b.json").read_text())
    plain = [r for r in found["rows"] if r["what"] == "plain"]
    assert [(r["batch"], r["steps"]) for r in plain] == [(1, 2), (1, 3), (2, 2), (2, 3)]
    for r in plain:
        for stage in ("base", "sr_256"):  # DDIM calls the network once a step
            assert r[stage]["seconds"] / r[stage]["seconds_per_call"] == pytest.approx(
                r["steps"], rel=0.02
            )
        assert r["seconds_per_image"] * r["batch"] > r["base"]["seconds"] > 0
    assert "source and edit take" in capsys.readouterr().out and found["edit_over_plain"] > 0


@pytest.mark.slow
def test_the_training_benchmark_counts_flops_and_compares_them_with_a_matrix_product(
    tmp_path, capsys
):
    benchmark_throughput.main(
        [
            "--preset",
            "tiny",
            "--device",
            "cpu",
            "--stages",
            "base",
            "sr_256",
            "--batch",
            "2",
            "4",
            "--text-length",
            "0",
            "40",
            "--rounds",
            "1",
            "--round",
            "1",
            "--precision",
            "fp32",
            "--no-diffusers",
            "--out",
            str(tmp_path / "b.json"),
        ]
    )
    found = json.loads((tmp_path / "b.json").read_text())
    rows = found["rows"]
    assert len(rows) == 8 and all(r["images_per_second"] > 0 for r in rows)
    for r in rows:
        assert r["mfu"] == pytest.approx(
            r["images_per_second"]
            * r["gflop_per_image"]
            / found["matrix_product_gflop_per_second"],
            abs=0.01,
        )
    flops = {(r["network"], r["batch"], r["text_length"]): r["gflop_per_image"] for r in rows}
    assert flops["base", 2, None] == flops["base", 4, None] < flops["base", 2, 40]
    assert "MFU" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("network", ["ours", "diffusers"])
def test_the_score_after_minutes_is_measured_and_plotted(network, tmp_path, capsys, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(baselines, "DiffusersNet", lambda width: TinyPeer(width))
    out = tmp_path / "score.json"
    time_to_score.main(
        [
            "--network",
            network,
            "--preset",
            "tiny",
            "--device",
            "cpu",
            "--minutes",
            "0.01",
            "--at",
            "0.5",
            "--n",
            "1",
            "--edits",
            "1",
            "--out",
            str(out),
            "batch_size=2",
            "precision=fp32",
            "stage.guidance_scale=1.5",
            *(["--save", str(tmp_path / "stage")] if network == "ours" else []),
        ]
    )
    found = json.loads(out.read_text())
    assert found["stage"]["guidance_scale"] == 1.5
    if network == "ours":
        assert (
            json.loads(json.dumps(to_dict(load_stage(tmp_path / "stage").config))) == found["stage"]
        )
    assert [set(time_to_score.CATEGORIES) <= set(point) for point in found["curve"]] == [
        True
    ] * len(found["curve"]) and len(found["curve"]) >= 1
    assert found["curve"][-1]["step"] == found["recipe"]["steps"] and ("edits" in found) == (
        network == "ours"
    )
    time_to_score.main(["--plot", str(out), str(out), "--out", str(tmp_path / "curve.png")])
    assert size(tmp_path / "curve.png")[0] > 800


def test_recipes_are_compared_early_by_errors_alone(tmp_path, capsys):
    out = tmp_path / "early.json"
    time_to_score.main(
        [
            "--preset",
            "tiny",
            "--device",
            "cpu",
            "--stop",
            "2",
            "--n",
            "0",
            "--edits",
            "0",
            "--out",
            str(out),
            "steps=4",
            "batch_size=2",
            "precision=fp32",
        ]
    )
    found = json.loads(out.read_text())
    (point,) = found["curve"]
    assert found["recipe"]["steps"] == 4 and point["step"] == 2 and "all" not in point
    # A network that has learned nothing says about 0 whatever the noise and the caption, and errs
    # by the mean square of the images.
    assert len(set(point["errors"]["own"])) > 1 and all(
        0.2 < e < 0.8 for e in point["errors"]["own"]
    )
    assert point["errors"]["own"] == pytest.approx(point["errors"]["other"], rel=0.05)
    assert "error by log-SNR" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no scores of ours to plot"):
        time_to_score.main(["--plot", str(out), "--out", str(tmp_path / "curve.png")])


@pytest.mark.slow
@pytest.mark.parametrize("network", ["ours", "diffusers"])
def test_a_training_for_a_score_resumes_where_it_was_stopped(network, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(baselines, "DiffusersNet", lambda width: TinyPeer(width))
    monkeypatch.setattr(time_to_score, "LOG_SNRS", range(-2, 0))

    def measure(out, *options):
        torch.manual_seed(0)
        time_to_score.main(
            [
                "--network",
                network,
                "--preset",
                "tiny",
                "--device",
                "cpu",
                "--n",
                "0",
                "--edits",
                "0",
                "--minutes",
                "0.1",
                "--seconds-per-step",
                "1.5",
                "--eval-at",
                "0.5",
                "--out",
                str(out),
                "batch_size=2",
                "precision=fp32",
                *options,
            ]
        )
        return json.loads(out.read_text())

    kept = ["--checkpoint-dir", str(tmp_path / "kept")]
    whole = measure(tmp_path / "whole.json")
    assert [p["step"] for p in whole["curve"]] == [2, 4] and len(
        {tuple(p["errors"]["own"]) for p in whole["curve"]}
    ) == 2
    measure(tmp_path / "parts.json", *kept, "--stop", "3")
    parts = measure(tmp_path / "parts.json", *kept)
    assert [p["step"] for p in parts["curve"]] == [2, 3, 4] and [
        parts["curve"][i] for i in (0, 2)
    ] == whole["curve"]
    with pytest.raises(SystemExit, match="at its end"):  # --keep is the former name
        measure(tmp_path / "parts.json", "--keep", str(tmp_path / "kept"))
    with pytest.raises(SystemExit, match="another recipe"):
        measure(tmp_path / "parts.json", *kept, "weight_decay=0.5")


def test_the_network_of_another_library_is_not_saved_as_a_stage_of_ours(tmp_path):
    with pytest.raises(SystemExit, match="diffusers's is no stage"):
        time_to_score.main(
            ["--network", "diffusers", "--save", str(tmp_path), "--out", str(tmp_path / "a.json")]
        )


class TinyPeer(baselines.DiffusersNet):
    """As large as a test can wait for."""

    def __init__(self, text_width):
        from diffusers import UNet2DConditionModel

        torch.nn.Module.__init__(self)
        self.unet = UNet2DConditionModel(
            sample_size=64,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            cross_attention_dim=text_width,
            attention_head_dim=8,
            norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 3 + ("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * 3,
        )


@pytest.mark.parametrize(
    "arguments",
    [(profile_step, ["--stage", "sr_512"]), (benchmark_throughput, ["--stages", "base", "sr_512"])],
    ids=["breakdown", "benchmark"],
)
def test_a_stage_that_the_preset_lacks_is_refused_with_those_it_has(arguments, capsys):
    script, options = arguments
    with pytest.raises(SystemExit):
        script.main(["--preset", "tiny", *options])
    assert "sr_512: the preset tiny has base, sr_256" in capsys.readouterr().err


def test_the_parts_of_a_step_hold_all_its_arithmetic(capsys):
    profile_step.main(
        ["--preset", "tiny", "--batch", "2", "--rounds", "2", "--device", "cpu", "precision=fp32"]
    )
    _, _, table = capsys.readouterr().out.partition("of it\n")
    rows = {line[:34].strip(): line[34:].split() for line in table.splitlines()}
    stage, encoder = (
        DiffusionStage(PRESETS["tiny"]["base"]),
        TextEncoder.from_pretrained(WEIGHTS / "text_encoder"),
    )
    assert float(rows["a full step"][3]) == pytest.approx(
        2 * benchmark_throughput.flops_per_image(stage, encoder) / 1e9, abs=0.01
    )
    times = [float(row[1]) for name, row in rows.items() if name != "a full step"]
    assert sum(times) == pytest.approx(float(rows["a full step"][1]), abs=0.1 * len(times))
    assert {
        "cross attention, 4 x 4",
        "residual blocks, 8 x 8",
        "optimizer, muon",
        "optimizer, adamw",
        "text encoder",
        "images",
        "noise",
        "text layers",
    } <= set(rows)


def test_flops_are_those_of_a_known_layer():
    class Known(torch.nn.Module):
        """One matrix product, 12,288 x 100, whose input needs no gradient: forward and one backward
        product.
        """

        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(3 * 64 * 64, 100, bias=False)

        def forward(self, x_t, *_, **__):
            return x_t + self.out(x_t.flatten(1)).mean()

    stage = DiffusionStage(PRESETS["tiny"]["base"])
    stage.net = Known()
    assert (
        benchmark_throughput.flops_per_image(stage, lambda captions: None) == 2 * 2 * 12_288 * 100
    )


@pytest.mark.parametrize(
    "script",
    [
        generate,
        edit,
        edit_cascade,
        edit_gallery,
        edit_sweep,
        edit_patching,
        attention_edits,
        reweight,
        attention,
        activation_patching,
        claims,
        evaluate,
        compare,
        compare_claims,
        demo,
        sweep,
        plot_schedules,
        benchmark_latency,
        train,
        overfit,
        export_pipeline,
        model_card,
        sample_timeline,
        check_dataset,
        make_dataset,
        make_emoji_dataset,
        download_dataset,
        report,
        verify_checkpoints,
        benchmark_throughput,
        time_to_score,
        profile_step,
        estimate_cost,
    ],
)
def test_every_script_has_help(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    assert stop.value.code == 0 and len(capsys.readouterr().out) > 200


@pytest.mark.slow
def test_excess_error_compares_a_stage_with_the_best_denoiser(folder, tmp_path, capsys):
    excess_error.main(
        [
            f"{folder}/base",
            "--text-encoder",
            f"{folder}/text_encoder",
            "--n",
            "1",
            "--out",
            str(tmp_path / "regret.png"),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    path = lines.pop()
    assert [lines[i].split()[1:] for i in (1, 5)] == [
        [str(level) for level in excess_error.LOG_SNRS]
    ] * 2
    best, own, best_told, own_told = (
        [float(word) for word in lines[i].split()[1:]] for i in (2, 3, 6, 7)
    )
    # an untrained network
    assert len(best) == len(own) == len(excess_error.LOG_SNRS) and best[-1] < 0.01 < sum(own) - sum(
        best
    )
    assert max(map(abs, own_told)) < 0.1 and best_told[0] < 0.05 < 0.2 < best_told[-1]
    assert size(path)
