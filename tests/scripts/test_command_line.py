"""Mistakes on the command line: each ends in one plain line, before anything is sampled."""

import importlib
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch
from safetensors.torch import load_file, save_file

from imagen_mini.cascade.serialization import save_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.utils.checks import as_integer
from imagen_mini.utils.scripts import plain_errors, run_script

CAPTION = "a red circle"
PAIR = [CAPTION, "a red star"]


@pytest.fixture(scope="module")
def places(tiny_pipe, tmp_path_factory):
    """Folders by name: a pipeline, runs in several states, a folder, and a file."""
    root = tmp_path_factory.mktemp("places")
    tiny_pipe.save_pretrained(root / "pipe")
    for name, stage in (("run", "base"), ("sr_run", "sr_256")):
        save_stage(tiny_pipe.stages[stage], root / name / "stage")
        (root / name / "log.jsonl").touch()
    (root / "young" / "step_00000010").mkdir(parents=True)
    (root / "young" / "log.jsonl").touch()
    (root / "folder").mkdir()
    (root / "file").write_text("{}")
    return root


@pytest.fixture
def mistake(places, monkeypatch, capsys):
    """A function that runs a script as the command line does; "@" in arguments is `places`. It
    returns the last line of the error and the exit code, and fails if there is a traceback or if
    an image was sampled.
    """

    def mistake(script, *arguments):
        module = importlib.import_module(script)
        sampled = []
        monkeypatch.setattr(ImagenPipeline, "sample_stage", lambda *_, **__: sampled.append(1))
        monkeypatch.chdir(places)
        arguments = [a.replace("@", f"{places}/") for a in arguments]
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as stop:
            run_script(module.main)
        assert not sampled
        if isinstance(stop.value.code, str):
            return stop.value.code, 1
        return capsys.readouterr().err.strip().splitlines()[-1], stop.value.code

    return mistake


GENERATE = ["sample.generate", CAPTION, "--pipeline", "@pipe"]
REPLACE = ["sample.edit", "replace", *PAIR, "--pipeline", "@pipe"]
REWEIGHT = ["sample.edit", "reweight", CAPTION, "--pipeline", "@pipe"]
ATTENTION = ["sample.attention", CAPTION, "--pipeline", "@pipe"]
EXPORT = ["train.export_pipeline", "--out", "@new"]
TINY = ["--pipeline", "@pipe"]


@pytest.mark.parametrize(
    "command, message",
    [
        # where the output goes
        ([*GENERATE, "--out", "name"], "--out name has no ending.*for example name.png"),
        ([*GENERATE, "--out", "a.xyz"], "--out a.xyz ends in .xyz; expected one of .png, .jpg"),
        ([*GENERATE, "--out", "@folder"], "is a folder; expected a file, for example .*out.png"),
        ([*GENERATE, "--out", "."], r"--out \. is a folder"),
        ([*GENERATE, "--out", "@file/a.png"], "file is a file; expected a folder"),
        ([*GENERATE, "--out", "/proc/none/a.png"], "nothing can be written to /proc/none"),
        ([*REPLACE, "--out", "name"], "--out name has no ending"),
        ([*ATTENTION, "--out", "@file"], "file is a file; expected a folder"),
        (["sample.demo", *TINY, "--out", "@file"], "file is a file; expected a folder"),
        (["sample.sweep", *TINY, "--out", "@file"], "file is a file; expected a folder"),
        (["sample.guide", *TINY, "--out", "@file"], "file is a file; expected a folder"),
        (["sample.compose", "a AND b", *TINY, "--out", "name"], "--out name has no ending"),
        (["sample.edit_sweep", *TINY, "--out", "@file"], "file is a file; expected a folder"),
        (["sample.edit_cascade", *TINY, "--out", "@file"], "file is a file; expected a folder"),
        (["sample.edit_patching", *TINY, "--out", "@file"], "file is a file; expected a folder"),
        (["sample.attention_edits", *TINY, "--out", "@file"], "is a file; expected a folder"),
        (["sample.reweight", *TINY, "--out", "@file"], "file is a file; expected a folder"),
        (["sample.activation_patching", *TINY, "--out", "@file"], "is a file; expected a folder"),
        (["sample.distribution_metrics", *TINY, "--out", "@file"], "is a file; expected a folder"),
        (["sample.parser_robustness", "--out", "@file"], "file is a file; expected a folder"),
        (["sample.benchmark_latency", *TINY, "--out", "@folder"], "is a folder; expected a file"),
        (["sample.evaluate", *TINY, "--out", "@folder"], "is a folder; expected a file"),
        (["sample.evaluate", *TINY, "--out", "r.png"], "expected a name for the report"),
        (["sample.evaluate", *TINY, "--image", "name"], "--image name has no ending"),
        (["sample.plot_schedules", "--out", "name"], "--out name has no ending"),
        (["sample.plot_schedules", "--out", "@folder"], "is a folder; expected a file"),
        (["sample.show_world", "--out", "name"], "--out name has no ending"),
        (["train.check_dataset", "@folder", "--image", "name"], "--image name has no ending"),
        # numbers
        ([*GENERATE, "--count", "0"], "--count: 0; expected an integer of at least 1"),
        ([*GENERATE, "--count", "1.5"], "--count: invalid int value: '1.5'"),
        ([*GENERATE, "--seed", "x"], "--seed: invalid int value"),
        ([*GENERATE, "--steps", "0"], "--steps: 0; expected an integer of at least 1"),
        ([*GENERATE, "--guidance-scale", "nan"], "--guidance-scale: nan; expected a finite numb"),
        ([*GENERATE, "--guidance-scale", "inf"], "--guidance-scale: inf; expected a finite numb"),
        ([*GENERATE, "--guidance-interval", "5,2"], "the guidance interval is .5.0, 2.0.; expect"),
        ([*GENERATE, "--guidance-interval", "nan,2"], "the guidance interval is .nan, 2.0.; exp"),
        ([*GENERATE, "--eta", "2"], "--eta: 2; expected a number from 0 to 1"),
        ([*GENERATE, "--gamma", "-1"], "--gamma: -1; expected a number from 0 to 1"),
        ([*GENERATE, "--gamma", "0.5"], "gamma 0.5 is not used"),
        ([*GENERATE, "--aug-level", "nan"], "--aug-level: nan; expected a finite number"),
        ([*GENERATE, "--aug-level", "0.9"], "aug_level 0.9: stage sr_256 was trained with levels"),
        ([*GENERATE, "--negative-prompt", "x", "--guidance-scale", "1"], "is not used: guidance"),
        ([*REPLACE, "--cross-replace-steps", "1.5"], "expected a share of the steps from 0 to 1"),
        ([*REPLACE, "--cross-replace-steps", "a"], "'a' is no window; expected a share"),
        ([*REPLACE, "--cross-replace-steps", "0,0.5,1"], "'0,0.5,1' is no window"),
        ([*REPLACE, "--shared-prompt-steps", "nan"], "expected a share of the steps from 0 to 1"),
        ([*REPLACE, "--prompt-switching", "1.5"], "expected a share of the steps from 0 to 1"),
        ([*REPLACE, "--self-replace-steps", "0.8,0.2"], "expected a share of the steps"),
        ([*REWEIGHT, "--word", "red", "--scale", "5"], "--scale: 5; expected a number from -2 to"),
        ([*REWEIGHT, "--word", "red", "--scale", "nan"], "--scale: nan; expected a finite number"),
        ([*REWEIGHT, "--word", "red", "--weight-steps", "2"], "expected a share of the steps"),
        (["sample.attention", "--find", "0", *TINY], "--find: 0; expected an integer of at least"),
        ([*ATTENTION, "--size", "7"], "--size 7: this network attends to words on grids of"),
        (["sample.evaluate", *TINY, "--n", "0"], "--n: 0; expected an integer of at least 1"),
        (["sample.evaluate", *TINY, "--edits", "-1"], "--edits: -1; expected an integer of at le"),
        (["sample.evaluate", *TINY, "--categories"], "--categories: expected at least one"),
        (["sample.sweep", *TINY, "--batch", "0"], "--batch: 0; expected an integer of at least 1"),
        (["sample.sweep", *TINY, "--scales", "nan"], "--scales: nan; expected a finite number"),
        (["sample.edit_sweep", *TINY, "--shares", "nan"], "shares from 0 to 1"),
        (["sample.edit_cascade", *TINY, "--shown", "-1"], "--shown: -1; expected an integer"),
        (["sample.reweight", *TINY, "--n", "1"], "--n 1: expected at least 2"),
        (["sample.activation_patching", *TINY, "--n", "0"], "--n: 0; expected an integer of at"),
        (["sample.benchmark_latency", *TINY, "--rounds", "0"], "--rounds: 0; expected an integer"),
        (["sample.benchmark_latency", *TINY, "--batch", "0"], "--batch: 0; expected an integer"),
        (["sample.benchmark_latency", *TINY, "--steps", "0"], "--steps: 0; expected an integer"),
        (["sample.parser_robustness", "--n", "0"], "--n: 0; expected an integer of at least 1"),
        (["sample.parser_robustness", "--audit", "-1"], "-1; expected an integer of at least 0"),
        (["sample.distribution_metrics", *TINY, "--batch", "0"], "--batch: 0; expected an integ"),
        (["sample.distribution_metrics", *TINY, "--scales", "inf"], "inf; expected a finite numb"),
        (["sample.show_world", "--columns", "0"], "--columns: 0; expected an integer of at least"),
        (["train.download_dataset", "a/b", "--out", "d", "--limit", "0"], "--limit: 0; expected"),
        # words and names
        ([*REPLACE, "--local-blend", "ring"], "no word 'ring' in 'a red star'; its words are"),
        ([*REWEIGHT, "--word", "blue"], "no word 'blue' in 'a red circle'; its words are 0 'a'"),
        (["sample.attention", "", *TINY], "the caption has no word"),
        ([*GENERATE, "--base-only", "--aug-level", "2"], "--aug-level: 2; expected a number from"),
        ([*ATTENTION, "--word", "blue"], "no word 'blue' in 'a red circle'; its words are 0 'a'"),
        (["sample.edit", "replace", CAPTION, CAPTION, *TINY], "nothing to replace: both prompts"),
        (["sample.edit", "replace", CAPTION, "a star", *TINY], "Replace swaps words one for one"),
        ([*GENERATE, "--device", "foo"], "device 'foo' cannot be used here; there is cpu"),
        ([*GENERATE, "--device", "cuda:99"], "device 'cuda:99' cannot be used here; there is cpu"),
        (["sample.sweep", *TINY, "--stage", "sr_1024"], "--stage sr_1024: .* has base, sr_256"),
        (["sample.distribution_metrics", *TINY, "--stage", "x"], "--stage x: .*has base, sr_256"),
        (["sample.compare", "none.json", "@file"], "none.json is no report of sample.evaluate"),
        (["sample.compare", "@file", "@file"], "file is no report of sample.evaluate"),
        # pipelines
        ([*GENERATE[:2], "--pipeline", "pip"], "no pipeline at pip.*did you mean pipe"),
        ([*GENERATE[:2], "--pipeline", "folder/p"], "there is a folder folder, but no p in it"),
        ([*GENERATE[:2], "--pipeline", "./some/thing"], "no pipeline at some/thing: expected"),
        ([*GENERATE[:2], "--pipeline", "~/nothing"], "no pipeline at /.*/nothing"),
        ([*GENERATE[:2], "--pipeline", "@file"], "file is no pipeline: it is a file"),
        ([*GENERATE[:2], "--pipeline", "@folder"], "is no pipeline: it has no model_index.json"),
        ([*GENERATE[:2], "--pipeline", "."], r"\. is no pipeline: .* but pipe has one"),
        ([*GENERATE[:2], "--pipeline", "run"], "of a training run; .*train.export_pipeline --base"),
        ([*GENERATE[:2], "--pipeline", "young"], "run that has saved no stage yet; .*export_pipe"),
        ([*GENERATE[:2], "--pipeline", "run/stage"], "of one stage; .*train.export_pipeline"),
        ([*GENERATE[:2], "--pipeline", "pipe/text_encoder"], "is no pipeline: it is a text encod"),
        (["sample.evaluate", "--pipeline", "run"], "of a training run; .*train.export_pipeline"),
        # exporting runs
        ([*EXPORT, "--base", "nowhere"], "nowhere: there is no such folder; expected that of a"),
        ([*EXPORT, "--base", "folder"], "folder is no stage: it has no config.json"),
        ([*EXPORT, "--base", "young"], "young is a run that has saved no stage yet"),
        ([*EXPORT, "--base", "pipe"], "pipe is a pipeline already; expected a run or a stage"),
        ([*EXPORT, "--base", "run", "--sr", "run"], "each stage needs a name of its own"),
        ([*EXPORT, "--base", "sr_run"], "sr_256 takes a low-resolution image of size 64"),
        ([*EXPORT, "--base", "run", "--text-encoder", "none"], "no text encoder none: there is no"),
        ([*EXPORT, "--base", "run", "--text-encoder", "folder"], "folder .*text encoder"),
        ([*EXPORT, "--base", "run", "base.foo=1"], "unknown setting 'foo'"),
        ([*EXPORT, "--base", "run", "foo.eta=1"], "'foo.eta=1' names no stage; there are base"),
        ([*EXPORT, "--base", "run", "nonsense"], "'nonsense' names no stage"),
        ([*EXPORT[:1], "--base", "run", "--out", "@file"], "file is a file; expected a folder"),
        ([*EXPORT[:1], "--base", "run", "--out", "run"], "--out run is what is exported"),
        # data sets
        (["train.check_dataset", "nowhere"], "nowhere is no folder"),
        (["train.check_dataset", "@file"], "file is no folder"),
        (
            ["train.check_dataset", "folder", "--text-encoder", "none"],
            "no text encoder none: there",
        ),
    ],
    ids=lambda value: " ".join(value)[:70] if isinstance(value, list) else "",
)
def test_a_mistake_ends_in_one_plain_line(mistake, command, message):
    line, code = mistake(*command)
    assert code in (1, 2)
    assert re.search(message, line), line
    assert "\n" not in line


@pytest.mark.parametrize(
    "command",
    [
        ["sample.evaluate", "--n", "1", "--edits", "0", "--workers", "1", "--out", "@r.json"],
        ["sample.sweep", "--n", "1", "--out", "@new"],
        ["sample.edit_sweep", "--n", "1", "--out", "@new"],
        ["sample.attention", "--find", "1", "--out", "@new"],
    ],
    ids=lambda command: command[0],
)
def test_images_that_no_parser_can_read_are_not_generated_to_be_judged(
    mistake, places, tiny_pipe, tmp_path, command
):
    config = tiny_pipe.stages["base"].config
    small = replace(config, unet=replace(config.unet, image_size=32), text_encoder=None)
    ImagenPipeline(tiny_pipe.text_encoder, [DiffusionStage(small)]).save_pretrained(tmp_path)
    line, code = mistake(*command, "--pipeline", str(tmp_path))
    assert "images of stage base cannot be judged: those of the world scenes are read at" in line
    assert "these have 32 px" in line and code == 1


def test_a_hub_name_that_cannot_be_fetched_names_the_folder_as_well(mistake, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    line, _ = mistake("sample.generate", CAPTION, "--pipeline", "owner/model")
    assert "no pipeline owner/model: there is no such folder in" in line
    assert line.endswith("(ConnectionError: no route to host)")


def test_what_our_code_refuses_in_another_process_is_a_plain_line_and_a_bug_there_is_none():
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        with pytest.raises(SystemExit, match="steps: expected an integer; got 1.5"):
            run_script(lambda: pool.submit(as_integer, "steps", 1.5).result())
        with pytest.raises(ValueError, match="invalid literal for int"), plain_errors():
            pool.submit(int, "x").result()


@pytest.mark.slow
def test_an_option_that_workers_refuse_is_one_plain_line_as_well(mistake):
    options = ["--n", "1", "--edits", "0", "--workers", "2", "--aug-level", "0.9"]
    line, _ = mistake("sample.evaluate", *TINY, *options)
    assert "aug_level 0.9: stage sr_256 was trained with levels from 0 to 0.5" in line


@pytest.mark.parametrize(
    "script, arguments, file",
    [
        ("generate", [CAPTION, "--out", "@a.png"], "a.png"),
        ("edit", ["replace", *PAIR, "--out", "@a.png"], "a.png"),
        ("demo", ["--out", "@"], "captions.png"),
    ],
)
def test_the_image_is_written_before_the_parser_sees_it(
    places, tmp_path, monkeypatch, script, arguments, file
):
    def fail(*_):
        raise RuntimeError("the parser cannot read images of this size")

    module = importlib.import_module(f"sample.{script}")
    monkeypatch.setattr(module, "judge_image" if script == "demo" else "verdict", fail)
    arguments = [a.replace("@", f"{tmp_path}/") for a in arguments]
    options = ["--pipeline", str(places / "pipe"), "--steps", "4", "--base-only"]
    with pytest.raises(RuntimeError, match="cannot read images of this size"):
        module.main([*arguments, *options])
    assert (tmp_path / file).stat().st_size > 100


@pytest.mark.parametrize(
    "bug",
    [
        lambda: int("x"),  # a ValueError of Python itself
        lambda: len(3),
        lambda: torch.zeros(2) + torch.zeros(3),
        lambda: torch.zeros(2).expand(3, 4, 5).view(7),
        lambda: {}["x"],
    ],
)
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises((ValueError, TypeError, RuntimeError, KeyError)), plain_errors():
        bug()


def test_a_full_disk_and_memory_that_ran_out_are_plain_lines(tmp_path):
    def full():
        raise OSError(28, "No space left on device", str(tmp_path / "a.png"))

    def memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nmore")

    with pytest.raises(SystemExit, match="a.png: No space left on device"):
        run_script(full)
    with pytest.raises(SystemExit, match="out of memory: CUDA out of memory.*fewer|Fewer"):
        run_script(memory)


def test_an_interrupted_script_says_so():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="stopped"):
        run_script(interrupted)


def test_a_pipeline_that_was_saved_compiled_by_an_earlier_version_is_read(places, tiny_pipe):
    """Its weights have the names of torch.compile's wrapper."""
    target = places / "compiled"
    tiny_pipe.save_pretrained(target)
    file = target / "base" / "model.safetensors"
    weights = load_file(file)
    save_file({f"_orig_mod.{name}": w for name, w in weights.items()}, file)
    found = ImagenPipeline.from_pretrained(target).stages["base"].net.state_dict()
    assert all(torch.equal(found[name], w) for name, w in weights.items())
