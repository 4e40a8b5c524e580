"""The pipeline, end to end with an untrained tiny cascade."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import imagen_mini.pipeline
import imagen_mini.prompt_to_prompt
from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.samplers import SAMPLERS
from imagen_mini.diffusion.schedules import SCHEDULES
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.preview import sample_single_stage
from imagen_mini.evaluation.text_probes import random_encoder_like
from imagen_mini.scenes.world import WORLDS
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder
from imagen_mini.utils.rng import randn

QUIET = {"progress": False, "output_type": "pt"}
TINY = PRESETS["tiny"]


def test_a_caption_becomes_an_image_at_every_stage(tiny_pipe):
    out = tiny_pipe("a red circle", progress=False)
    assert {name: tuple(x.shape) for name, x in out.stages.items()} == {
        "base": (1, 3, 64, 64),
        "sr_256": (1, 3, 256, 256),
    }
    assert all(
        x.isfinite().all() and x.abs().max() <= 1 and x.std() > 0.01 for x in out.stages.values()
    )
    assert out.images[0].size == (256, 256) and set(out.seconds) == {"base", "sr_256"}


def test_the_image_depends_on_the_caption_the_seed_and_nothing_else(tiny_pipe):
    def generate(prompt, seed):
        return tiny_pipe(prompt, seed=seed, **QUIET).images[0]

    first = generate("a red circle", 3)
    torch.manual_seed(99)
    assert torch.equal(generate("a red circle", 3), first)
    assert (generate("a red circle", 4) - first).abs().mean() > 0.01
    assert (generate("two small blue stars", 3) - first).abs().max() > 0.01


@pytest.mark.parametrize(
    "options, negatives",
    [
        ({"sampler": "ddim"}, None),
        ({"sampler": "ddpm"}, None),
        ({"sampler": "ddim", "eta": 0.7}, None),
        ({"sampler": "dpmpp_2m", "eta": 0.7}, None),
        ({"sampler": "ddpm", "gamma": 0.7}, None),
        ({"sampler": "heun"}, None),
        ({}, ["blue", "a large star on a striped white background, or below a pink ring", ""]),
    ],
)
def test_the_same_seed_in_another_batch_gives_the_same_image(tiny_pipe, options, negatives):
    prompts = [
        "a red circle",
        "a large striped blue square to the left of a small pink star on a white background",
        "ring",
    ]
    together = tiny_pipe(
        prompts, seed=[5, 6, 7], negative_prompt=negatives, **options, **QUIET
    ).stages
    for i, prompt in enumerate(prompts):
        alone = tiny_pipe(
            prompt, seed=5 + i, negative_prompt=negatives and negatives[i], **options, **QUIET
        ).stages
        for name in together:
            assert torch.allclose(alone[name][0], together[name][i], rtol=0, atol=1e-4)


def test_super_resolution_sees_the_base_image_augmented_by_the_one_augment_at_the_level_asked_for(
    tiny_pipe, monkeypatch
):
    calls = []

    def spy(low_res, aug_level, noise):
        calls.append((low_res, aug_level, noise))
        return augment_low_res(low_res, aug_level, noise)

    monkeypatch.setattr(imagen_mini.pipeline, "augment_low_res", spy)
    seen = []
    hook = tiny_pipe.stages["sr_256"].net.register_forward_pre_hook(
        lambda m, args: seen.append(args[3:5])
    )
    out = tiny_pipe(["a red circle", "ring"], seed=2, aug_level=0.3, **QUIET)
    hook.remove()
    ((low_res, level, noise),) = calls
    assert torch.equal(low_res, out.stages["base"]) and torch.allclose(
        level, torch.tensor([0.3, 0.3])
    )
    for given, told in seen:  # on the batch doubled by guidance
        assert torch.equal(
            given, augment_low_res(low_res, level, noise).repeat(2, 1, 1, 1)
        ) and torch.equal(told, level.repeat(2))
    assert len(seen) == TINY["sr_256"].num_inference_steps
    assert torch.equal(noise[0], randn([2], (3, 64, 64), "sr_256", "aug")[0])


def test_every_option_changes_the_image(tiny_pipe):
    plain = tiny_pipe("a red circle", **QUIET).images[0]
    for option in (
        {"num_inference_steps": 3},
        {"guidance_scale": 9.0},
        {"threshold": "none"},
        {"aug_level": 0.5},
        {"sampler": "ddpm"},
        {"sampler": "heun"},
        {"timestep_spacing": "karras", "num_inference_steps": 3},
        {"seed": 1},
        {"eta": 1.0},
        {"negative_prompt": "a blue square"},
        {"guidance_interval": (0.5, 2.0)},
        {"guidance_scale": lambda t: 1 + 8 * t},
    ):
        assert (
            tiny_pipe("a red circle", **option, **QUIET).images[0] - plain
        ).abs().max() > 1e-3, option


def test_a_dict_by_stage_sets_an_option_of_that_stage_alone(tiny_pipe):
    plain = tiny_pipe("a red circle", **QUIET).stages
    for option in (
        {"num_inference_steps": {"sr_256": 3}},
        {"guidance_scale": {"sr_256": 9.0}},
        {"sampler": {"sr_256": "ddpm"}},
        {"eta": {"sr_256": 1.0}},
        {"guidance_scale": {"sr_256": lambda t: 9.0}},
        {"guidance_interval": {"sr_256": (0.5, 2.0)}},
    ):
        out = tiny_pipe("a red circle", **option, **QUIET).stages
        assert torch.equal(out["base"], plain["base"]) and not torch.allclose(
            out["sr_256"], plain["sr_256"], atol=1e-3
        ), option
    same = tiny_pipe(
        "a red circle",
        num_inference_steps={name: c.num_inference_steps for name, c in TINY.items()},
        **QUIET,
    ).stages
    assert torch.equal(same["sr_256"], plain["sr_256"])


@pytest.mark.parametrize(
    "sampler, base_calls", [("ddim", 5), ("ddpm", 5), ("dpmpp_2m", 5), ("heun", 9)]
)
def test_a_step_is_one_network_call_and_with_heun_two_except_the_last(
    tiny_pipe, sampler, base_calls
):
    calls = []
    hooks = [
        s.net.register_forward_pre_hook(lambda m, args, name=name: calls.append(name))
        for name, s in tiny_pipe.stages.items()
    ]
    tiny_pipe(
        "a red circle", num_inference_steps={"base": 5, "sr_256": 1}, sampler=sampler, **QUIET
    )
    for hook in hooks:
        hook.remove()
    assert calls == ["base"] * base_calls + ["sr_256"]


def test_stages_can_stop_after_the_base(tiny_pipe):
    out = tiny_pipe("a red circle", stages=("base",), progress=False)
    assert list(out.stages) == ["base"] and out.images[0].size == (64, 64)
    assert torch.equal(out.stages["base"], tiny_pipe("a red circle", **QUIET).stages["base"])


def test_an_empty_caption_gives_a_finite_image(tiny_pipe):
    assert tiny_pipe("", **QUIET).images[0].isfinite().all()
    assert all(x.isfinite().all() for x in tiny_pipe(["", "ring"], **QUIET).images)


def test_the_output_types_show_the_same_image(tiny_pipe):
    pt, array, pil = (
        tiny_pipe(["ring", "star"], stages=("base",), output_type=kind, progress=False).images
        for kind in ("pt", "np", "pil")
    )
    assert [len(x) for x in (pt, array, pil)] == [2, 2, 2]
    assert isinstance(pil[0], Image.Image) and pil[0].mode == "RGB" and pt[0].shape == (3, 64, 64)
    assert array[0].shape == (64, 64, 3) and array[0].min() >= 0 and array[0].max() <= 1
    assert np.allclose(array[0] * 2 - 1, pt[0].permute(1, 2, 0).numpy(), atol=1e-6)
    assert np.abs(np.asarray(pil[0]) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6


def test_black_and_white_become_0_and_255():
    images = torch.stack([torch.full((3, 2, 2), v) for v in (-1.0, 1.0, 0.0, 7.0)])
    assert [np.asarray(i).flat[0] for i in imagen_mini.utils.images.to_pil(images)] == [
        0,
        255,
        128,
        255,
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": [1, 2]}, "2 seeds for 1 prompts"),
        ({"num_inference_steps": 0}, "at least 1; got 0"),
        ({"aug_level": 0.9}, "aug_level 0.9: stage sr_256 was trained with levels from 0 to 0.5"),
        ({"aug_level": -0.1}, "aug_level -0.1"),
        ({"threshold": "clip"}, "'clip'; expected one of"),
        ({"sampler": "euler"}, "'euler'; expected one of"),
        (
            {"timestep_spacing": "cosine"},
            "spacing 'cosine'; expected one of uniform, log_snr, karras",
        ),
        ({"output_type": "jpg"}, "'jpg'; expected 'pil', 'np' or 'pt'"),
        ({"stages": ("sr_256",)}, r"\['base', 'sr_256'\] or its beginning"),
        ({"stages": ()}, "or its beginning"),
        ({"stages": ("base", "sr_1024")}, "or its beginning"),
        (
            {"guidance_scale": {"sr": 2.0}},
            r"guidance_scale: no stage \['sr'\]; there are \['base', 'sr_256'\]",
        ),
        ({"eta": {"sr": 0.5}}, r"eta: no stage \['sr'\]"),
        ({"eta": 1.5}, "eta 1.5; expected a number from 0 to 1"),
        (
            {"gamma": 0.5},
            "gamma 0.5 is not used.*base with ddim, sr_256 with ddim; pass sampler='ddpm'",
        ),
        (
            {"eta": 0.5, "sampler": "heun"},
            "eta 0.5 is not used.*base with heun, sr_256 with heun; pass sampler='ddim' or "
            "'dpmpp_2m'",
        ),
        (
            {"eta": {"sr_256": 0.5}, "sampler": {"sr_256": "heun"}},
            "eta 0.5 with the heun sampler, which does not use it",
        ),
        (
            {"negative_prompt": "ring", "guidance_scale": 1.0},
            "negative_prompt 'ring' is not used: guidance is off",
        ),
        ({"negative_prompt": ["ring", "star"]}, "2 negative prompts for 1 prompts"),
        (
            {"guidance_interval": (0.5, 2.0), "guidance_scale": 1.0},
            r"guidance_interval \(0.5, 2.0\) is not used: guidance is off",
        ),
        ({"guidance_interval": (2.0, 0.5)}, r"the guidance interval is \(2.0, 0.5\]"),
        ({"guidance_interval": (2.0,)}, r"the guidance interval is \(2.0\]; expected noise levels"),
        (
            {"guidance_interval": {"base": 2.0}},
            "the guidance interval is 2.0; expected noise levels",
        ),
        (
            {"guidance_interval": {"base": {"base": (0.5, 2.0)}}},
            "the guidance interval is {'base': .*; expected noise levels",
        ),
        (
            {"guidance_interval": (0.5, 2.0), "guidance_scale": lambda t: 3.0},
            r"guidance_interval \(0.5, 2.0\) and a guidance_scale that is a function",
        ),
    ],
)
def test_an_option_out_of_range_is_an_error_that_names_it(tiny_pipe, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipe("a red circle", **{"output_type": "pt", "progress": False} | options)


def test_an_option_that_does_not_fit_a_later_stage_is_an_error_before_anything_is_generated(
    tiny_pipe,
):
    calls = []
    hook = tiny_pipe.stages["base"].net.register_forward_pre_hook(lambda *_: calls.append(1))
    for options in (
        {"eta": {"sr_256": 0.5}, "sampler": {"sr_256": "heun"}},
        {"aug_level": 0.9},
        {"guidance_interval": {"sr_256": (2.0, 0.5)}},
    ):
        with pytest.raises(ValueError):
            tiny_pipe("a red circle", **options, **QUIET)
    hook.remove()
    assert not calls


def test_prompts_that_are_no_text_are_an_error(tiny_pipe):
    with pytest.raises(TypeError, match="must be a string"):
        tiny_pipe(b"a red circle")
    with pytest.raises(TypeError, match="must be a string"):
        tiny_pipe("a red circle", negative_prompt=b"a ring")


# ---------------------------------------------------------------- guidance and fresh noise


def test_a_negative_prompt_is_what_guidance_leads_away_from(tiny_pipe):
    # one step: the image is what guidance made of the network's two answers
    def generate(prompt, **options):
        return tiny_pipe(
            prompt,
            seed=3,
            num_inference_steps=1,
            threshold="none",
            stages=("base",),
            **options,
            **QUIET,
        ).images[0]

    prompt, negative = "a red circle", "two small blue stars above a ring"
    cond, away_from = generate(prompt, guidance_scale=1.0), generate(negative, guidance_scale=1.0)
    out = generate(prompt, guidance_scale=2.5, negative_prompt=negative)
    inside = (cond.abs() < 1) & (away_from.abs() < 1)  # of the clamp at the end
    assert inside.float().mean() > 0.5
    assert torch.allclose(
        out[inside], (2.5 * cond - 1.5 * away_from).clamp(-1, 1)[inside], rtol=0, atol=1e-4
    )
    assert (out - generate(prompt, guidance_scale=2.5)).abs().max() > 1e-3


def test_one_negative_prompt_holds_for_all_prompts_and_an_empty_one_is_none(tiny_pipe):
    def generate(negative):
        return tiny_pipe(
            ["a red circle", "ring"], seed=[1, 2], negative_prompt=negative, **QUIET
        ).images

    plain, one, each, second, empty = map(
        generate, (None, "a blue star", ["a blue star"] * 2, ["", "a blue star"], "")
    )
    assert all(torch.equal(a, b) for a, b in zip(one, each)) and all(
        torch.equal(a, b) for a, b in zip(plain, empty)
    )
    assert torch.allclose(second[0], plain[0], rtol=0, atol=1e-4) and torch.allclose(
        second[1], one[1], rtol=0, atol=1e-4
    )
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(plain, one))


def test_a_negative_prompt_acts_where_there_is_guidance_and_leaves_the_other_stages(tiny_pipe):
    def generate(**options):
        return tiny_pipe(
            "a red circle", guidance_scale={"base": 1.0, "sr_256": 3.0}, **options, **QUIET
        ).stages

    plain, out = generate(), generate(negative_prompt="a blue star")
    assert (
        torch.equal(out["base"], plain["base"])
        and (out["sr_256"] - plain["sr_256"]).abs().max() > 1e-3
    )


def test_the_guidance_scale_may_be_a_function_of_t_and_an_interval_is_one(tiny_pipe):
    def generate(**options):
        return tiny_pipe("a red circle", **options, **QUIET).images[0]

    assert torch.equal(generate(guidance_scale=lambda t: 4.0), generate(guidance_scale=4.0))
    assert torch.equal(
        generate(guidance_scale=4.0, guidance_interval=(0.0, float("inf"))),
        generate(guidance_scale=4.0),
    )
    assert torch.equal(
        generate(guidance_scale=4.0, guidance_interval=(1e7, 1e8)), generate(guidance_scale=1.0)
    )


def test_a_stages_own_guidance_interval_goes_with_its_own_w(tiny_pipe, monkeypatch):
    def generate(**options):
        return tiny_pipe("a red circle", stages=("base",), **options, **QUIET).images[0]

    stage, everywhere = tiny_pipe.stages["base"], (0.0, 1e9)
    w, always, asked = (
        stage.config.guidance_scale,
        generate(),
        generate(guidance_interval=(0.5, 2.0)),
    )
    monkeypatch.setattr(stage, "config", replace(stage.config, guidance_interval=(0.5, 2.0)))
    assert torch.equal(generate(), asked) and not torch.equal(asked, always)
    assert torch.equal(generate(guidance_scale=w), always) and torch.equal(
        generate(guidance_interval=everywhere), always
    )
    assert torch.equal(
        generate(guidance_scale=w, guidance_interval=(0.5, 2.0)), asked
    ) and torch.equal(generate(guidance_scale=lambda t: w), always)
    alone = sample_single_stage(stage, tiny_pipe.text_encoder, ["a red circle"], [0])
    monkeypatch.setattr(stage, "config", replace(stage.config, guidance_interval=None))
    assert not torch.equal(
        sample_single_stage(stage, tiny_pipe.text_encoder, ["a red circle"], [0]), alone
    )


@pytest.mark.parametrize("interval", [(2.0, 0.5), (1.0,), (-1.0, 2.0), (1.0, 2.0, 3.0)])
def test_a_stages_own_guidance_interval_is_one(interval):
    with pytest.raises(
        ValueError, match="expected noise levels sigma / alpha with 0 <= low < high"
    ):
        StageConfig(guidance_interval=interval)


def test_outside_the_guidance_interval_a_step_costs_half(tiny_pipe):
    sizes = []
    hook = tiny_pipe.stages["base"].net.register_forward_pre_hook(
        lambda m, args: sizes.append(len(args[0]))
    )
    tiny_pipe(
        "a red circle",
        num_inference_steps=4,
        guidance_interval=(0.5, 2.0),
        stages=("base",),
        **QUIET,
    )
    hook.remove()
    # sigma / alpha is tan(pi t / 2): 403 (where it is clipped), 2.4, 1, 0.4
    assert sizes == [1, 1, 2, 1]


def test_fresh_noise_is_a_function_of_the_seed_and_in_ddim_there_is_none_by_default(tiny_pipe):
    def generate(sampler="ddim", **options):
        return tiny_pipe(
            "a red circle", seed=3, sampler=sampler, stages=("base",), **options, **QUIET
        ).images[0]

    assert torch.equal(generate(eta=0.0), generate()) and torch.equal(
        generate(eta=0.8), generate(eta=0.8)
    )
    assert (generate(eta=0.8) - generate()).abs().max() > 1e-2
    assert torch.allclose(generate(eta=1.0), generate("ddpm"), rtol=0, atol=1e-4)
    assert (generate("ddpm", gamma=1.0) - generate("ddpm")).abs().max() > 1e-2


def test_a_stage_has_an_eta_of_its_own_which_goes_with_its_own_sampler(tiny_pipe, monkeypatch):
    base = tiny_pipe.stages["base"]

    def generate(**options):
        return tiny_pipe("a red circle", stages=("base",), **options, **QUIET).images[0]

    plain = generate()
    monkeypatch.setattr(base, "config", replace(base.config, eta=1.0))
    assert (
        torch.equal(generate(), generate(eta=1.0))
        and torch.equal(generate(eta=0.0), plain)
        and (generate() - plain).abs().max() > 1e-2
    )
    assert torch.equal(generate(sampler="dpmpp_2m"), generate(sampler="dpmpp_2m", eta=0.0))
    assert torch.equal(
        sample_single_stage(base, tiny_pipe.text_encoder, ["a red circle"], [0])[0], generate()
    )
    with pytest.raises(ValueError, match="eta 1.0 with the heun sampler, which does not use it"):
        replace(base.config, sampler="heun")


def test_one_eta_for_all_stages_reaches_those_that_use_it(tiny_pipe):
    def generate(**options):
        return tiny_pipe(
            "a red circle", sampler={"base": "ddim", "sr_256": "heun"}, **options, **QUIET
        ).stages

    everywhere, there, plain = generate(eta=1.0), generate(eta={"base": 1.0}), generate()
    assert all(torch.equal(everywhere[name], there[name]) for name in there)
    assert (everywhere["base"] - plain["base"]).abs().max() > 1e-2


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_pipeline_with_any_schedule_generates_images(
    encoder, randomize_zero_init, schedule, sampler
):
    torch.manual_seed(0)
    pipe = ImagenPipeline(
        encoder,
        [
            randomize_zero_init(DiffusionStage(replace(TINY[name], schedule=schedule)))
            for name in TINY
        ],
    )
    out = pipe("a red circle", sampler=sampler, **QUIET).stages
    assert all(x.isfinite().all() and x.std() > 0.01 for x in out.values())


def test_schedules_generate_different_images(encoder, randomize_zero_init):
    torch.manual_seed(0)
    stage = randomize_zero_init(DiffusionStage(TINY["base"]))
    images = []
    for schedule in SCHEDULES:
        stage.config = replace(TINY["base"], schedule=schedule)
        images.append(ImagenPipeline(encoder, [stage])("a red circle", **QUIET).images[0])
    for i in range(len(images)):
        assert (images[i] - images[i - 1]).abs().max() > 1e-2


# ---------------------------------------------------------------- assembling


def test_stages_are_ordered_by_size(encoder):
    pipe = ImagenPipeline(encoder, [DiffusionStage(TINY["sr_256"]), DiffusionStage(TINY["base"])])
    assert list(pipe.stages) == ["base", "sr_256"]


def changed(stage, unet):
    return replace(TINY[stage], unet=replace(TINY[stage].unet, **unet))


def test_a_super_resolution_stage_without_its_base_is_an_error(encoder):
    with pytest.raises(
        ValueError,
        match="sr_256 takes a low-resolution image of size 64, but what comes before it makes None",
    ):
        ImagenPipeline(encoder, [DiffusionStage(TINY["sr_256"])])


def test_a_super_resolution_stage_for_another_base_is_an_error(encoder):
    with pytest.raises(ValueError, match="size 64, but what comes before it makes 128"):
        ImagenPipeline(
            encoder,
            [DiffusionStage(changed("base", {"image_size": 128})), DiffusionStage(TINY["sr_256"])],
        )


def test_a_stage_for_another_text_encoder_is_an_error(encoder):
    with pytest.raises(
        ValueError, match=f"text of width 64, the text encoder returns {encoder.width}"
    ):
        ImagenPipeline(encoder, [DiffusionStage(changed("base", {"text_width": 64}))])


def test_an_encoder_that_was_taught_the_vectors_takes_the_place_of_its_teacher(encoder, tmp_path):
    config = replace(TINY["base"], text_encoder=encoder.weights_digest())
    ImagenPipeline(encoder, [DiffusionStage(config)]).save_pretrained(tmp_path / "pipeline")
    # 1. another encoder is refused, unless it says whose vectors it gives; the folder remembers it
    student = random_encoder_like(encoder)
    with pytest.raises(ValueError, match="was trained with text encoder .* this one is"):
        ImagenPipeline.from_pretrained(tmp_path / "pipeline", text_encoder=student)
    student.model.config.teacher_digest = encoder.weights_digest()
    student.save_pretrained(tmp_path / "student")
    student = TextEncoder.from_pretrained(tmp_path / "student")
    assert student.teacher_digest == encoder.weights_digest() != student.weights_digest()
    # 2. it is used, by its folder as well, and saved with the pipeline
    for given in (student, tmp_path / "student"):
        pipe = ImagenPipeline.from_pretrained(tmp_path / "pipeline", text_encoder=given)
        assert pipe.text_encoder.weights_digest() == student.weights_digest()
    pipe.save_pretrained(tmp_path / "new")
    again = ImagenPipeline.from_pretrained(tmp_path / "new").text_encoder
    assert again.weights_digest() == student.weights_digest()


def test_two_stages_of_one_name_are_an_error(encoder):
    with pytest.raises(ValueError, match=r"name of its own; got \['base', 'base'\]"):
        ImagenPipeline(
            encoder,
            [DiffusionStage(TINY["base"]), DiffusionStage(replace(TINY["sr_256"], name="base"))],
        )


# ---------------------------------------------------------------- on disk


@pytest.fixture(scope="module")
def saved(tiny_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a pipeline, gesichert für später")
    tiny_pipe.save_pretrained(folder, {"base": {"steps": 3}})
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "pipeline")


def test_a_pipeline_comes_back_from_disk_and_generates_the_same_images(tiny_pipe, saved):
    again = ImagenPipeline.from_pretrained(saved)
    first, second = (
        p(["a red circle", "ring"], seed=[1, 2], **QUIET).stages for p in (tiny_pipe, again)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_saving_again_keeps_how_it_was_trained(saved, tmp_path):
    pipe = ImagenPipeline.from_pretrained(saved)
    assert pipe.training_records["base"] == {"steps": 3}
    phases = {"training_phases": [{"data": {"source": "folder"}}]}
    pipe.save_pretrained(tmp_path / "a", {"base": phases})
    again = ImagenPipeline.from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")
    for folder in ("a", "b"):
        found = ImagenPipeline.from_pretrained(tmp_path / folder)
        assert found.training_records["base"] == phases and found.own_images


def test_a_precision_that_is_none_is_refused(saved):
    with pytest.raises(TypeError, match="dtype 'bfloat16'; expected torch.float32"):
        ImagenPipeline.from_pretrained(saved, "bfloat16")


def test_a_saved_pipeline_holds_only_json_and_safetensors(saved):
    assert {f.suffix for f in saved.rglob("*") if f.is_file()} <= {".json", ".safetensors"}
    assert json.loads((saved / "base" / "config.json").read_text())["training"] == {"steps": 3}


def test_a_pipeline_in_bfloat16_generates_nearly_the_same_image(tiny_pipe, saved):
    half = ImagenPipeline.from_pretrained(saved, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and tiny_pipe.dtype == torch.float32
    options = {"stages": ("base",), "num_inference_steps": 2, "guidance_scale": 1.0} | QUIET
    difference = (
        half("a red circle", **options).images[0].float()
        - tiny_pipe("a red circle", **options).images[0]
    )
    assert difference.square().mean().sqrt() < 0.1


def test_float16_is_refused_as_the_text_encoder_overflows_in_it(saved):
    with pytest.raises(ValueError, match="float16"):
        ImagenPipeline.from_pretrained(saved, dtype=torch.float16)
    with pytest.raises(ValueError, match="float16"):
        ImagenPipeline.from_pretrained(saved).half()("a red circle")


@pytest.mark.parametrize("name", WORLDS)
def test_a_shipped_pipeline_is_loaded_by_the_name_of_its_world(name):
    assert ImagenPipeline.from_pretrained(name).world.name == name


def test_a_folder_that_is_not_there_is_an_error_that_says_what_may_stand_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected 'emoji', 'scenes', 'studio', a folder"):
        ImagenPipeline.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "text_encoder",
        "text_encoder/config.json",
        "sr_256",
        "base/config.json",
        "base/model.safetensors",
    ],
)
def test_a_missing_part_is_an_error_that_names_it(copy, missing):
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(
        FileNotFoundError, match=missing.split("/")[0] if path.suffix == "" else path.name
    ):
        ImagenPipeline.from_pretrained(copy)


def test_truncated_weights_are_an_error_that_names_the_file(copy):
    file = copy / "sr_256" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="sr_256/model.safetensors cannot be read"):
        ImagenPipeline.from_pretrained(copy)


@pytest.mark.parametrize(
    "index, message",
    [
        ("{", "is not the index of a pipeline"),
        ("[]", "is not the index of a pipeline"),
        ('{"stages": ["base"]}', "is not the index of a pipeline.*format_version"),
        (
            '{"format_version": 2, "stages": ["base"]}',
            "format version 2; this code reads 1. Update",
        ),
        ('{"format_version": 1, "stages": "base"}', "must be a list of folder names"),
        ('{"format_version": 1, "stages": ["../base"]}', "must be a list of folder names"),
        ('{"format_version": 1, "stages": ["base", 3]}', "must be a list of folder names"),
        (
            '{"format_version": 1, "stages": ["sr_256"]}',
            "sr_256 takes a low-resolution image of size 64",
        ),
    ],
)
def test_an_index_that_is_wrong_is_an_error_that_says_how(copy, index, message):
    (copy / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        ImagenPipeline.from_pretrained(copy)


def test_text_is_read_once_for_an_image_and_the_unconditional_branch_reads_the_null_text(
    tiny_pipe, monkeypatch
):
    net, texts = tiny_pipe.stages["base"].net, []
    prepare_text = net.prepare_text
    monkeypatch.setattr(net, "prepare_text", lambda text: texts.append(text) or prepare_text(text))
    tiny_pipe("a red circle", stages=("base",), **QUIET)
    prompt: TextEmbeddings = tiny_pipe.text_encoder("a red circle")
    (text,) = texts
    assert (
        torch.equal(text.emb[0], prompt.emb[0])
        and not text.emb[1].any()
        and torch.equal(text.mask[1], prompt.mask[0])
    )


# ---------------------------------------------------------------- enlarging, editing, recording


def test_images_are_enlarged_as_the_cascade_would_enlarge_its_own(tiny_pipe):
    both = tiny_pipe(["a ring", "a star"], seed=[3, 4], progress=False)
    again = tiny_pipe(
        ["a ring", "a star"], seed=[3, 4], low_res=both.stages["base"], progress=False
    )
    assert list(again.stages) == ["sr_256"] and torch.equal(
        again.stages["sr_256"], both.stages["sr_256"]
    )
    assert not torch.equal(
        tiny_pipe(
            ["a ring", "a star"], seed=[3, 4], low_res=-both.stages["base"], progress=False
        ).stages["sr_256"],
        both.stages["sr_256"],
    )


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 32, 32), (3, 32, 32), (1, 3, 64, 32)])
def test_images_of_another_shape_are_an_error_that_says_which_is_expected(tiny_pipe, shape):
    with pytest.raises(
        ValueError,
        match=r"expected an image for each of 1 prompts, \[1, 3, size, size\] with size one of "
        r"\[64\]",
    ):
        tiny_pipe("a ring", low_res=torch.full(shape, -0.5), progress=False)


def test_images_are_not_enlarged_by_the_stage_that_generates_such(tiny_pipe):
    with pytest.raises(
        ValueError, match=r"stages \['base'\]; expected \['sr_256'\] or its beginning"
    ):
        tiny_pipe(
            "a ring", low_res=torch.full((1, 3, 64, 64), -0.5), stages=("base",), progress=False
        )


def test_super_resolution_is_edited_where_that_is_asked_for(tiny_pipe):
    prompts, edit = ["a red ring", "a red star"], Replace(1.0, 1.0, shared_prompt_steps=0.0)

    def generated(**options):
        return tiny_pipe(prompts, edit=edit, progress=False, **options).stages

    first, both = generated(), generated(edit_stages=("base", "sr_256"))
    assert (
        torch.equal(first["base"], both["base"])
        and (first["sr_256"][0] - both["sr_256"][0]).abs().max() < 1e-3
    )
    assert (first["sr_256"][1] - both["sr_256"][1]).abs().max() > 1e-3
    # none
    assert torch.equal(
        generated(edit_stages=())["base"], tiny_pipe(prompts, progress=False).stages["base"]
    )
    with pytest.raises(ValueError, match=r"edit_stages: no stage \['sr'\] is sampled"):
        generated(edit_stages=("sr",))
    with pytest.raises(ValueError, match="without an edit"):
        tiny_pipe("a ring", edit_stages=("base",), progress=False)


def test_on_step_is_called_after_every_step_of_every_stage(tiny_pipe):
    seen = []
    out = tiny_pipe(
        "a ring",
        progress=False,
        on_step=lambda stage, state: seen.append((stage, state.step, state.x_0_hat.clamp(-1, 1))),
    )
    steps = {name: stage.config.num_inference_steps for name, stage in tiny_pipe.stages.items()}
    assert [(stage, step) for stage, step, _ in seen] == [
        (name, i) for name, n in steps.items() for i in range(n)
    ]
    assert torch.equal(seen[-1][2], out.stages["sr_256"]) and torch.equal(
        seen[steps["base"] - 1][2], out.stages["base"]
    )


# ---------------------------------------------------------------- given noise and given images


def test_the_default_noise_given_as_x_T_gives_the_same_image(tiny_pipe):
    prompts, seeds = ["a ring", "a star"], [3, 4]
    plain = tiny_pipe(prompts, seed=seeds, **QUIET).stages
    noise = randn(seeds, (3, 64, 64), "base", "x_T")
    given = tiny_pipe(prompts, seed=seeds, x_T=noise, **QUIET).stages
    assert all(torch.equal(plain[name], given[name]) for name in plain)
    other = tiny_pipe(prompts, seed=seeds, x_T=noise.flip(0), **QUIET).stages
    assert (other["base"] - plain["base"]).abs().max() > 1e-2


def test_x_T_is_that_of_the_first_sampled_stage_and_one_row_holds_for_all_prompts(tiny_pipe):
    prompts, low_res = ["a ring", "a star"], torch.full((2, 3, 64, 64), -0.5)
    noise = randn([5], (3, 256, 256), "sr_256", "x_T")
    one = tiny_pipe(prompts, seed=[3, 4], low_res=low_res, x_T=noise, **QUIET).stages
    both = tiny_pipe(
        prompts, seed=[3, 4], low_res=low_res, x_T=noise.expand(2, -1, -1, -1), **QUIET
    ).stages
    assert list(one) == ["sr_256"] and torch.equal(one["sr_256"], both["sr_256"])
    plain = tiny_pipe("a ring", seed=5, low_res=low_res[:1], **QUIET).stages["sr_256"]
    again = tiny_pipe("a ring", seed=5, low_res=low_res[:1], x_T=noise, **QUIET).stages["sr_256"]
    assert torch.equal(plain, again)


@pytest.fixture
def drawing():
    """Flat colours: what no untrained network generates."""
    image = torch.full((1, 3, 64, 64), -0.5)
    image[:, 0, :, 32:] = 0.7
    return image


def test_at_strength_1_sampling_starts_from_the_noised_image(tiny_pipe, drawing):
    base = tiny_pipe.stages["base"]
    x_T = q_sample(
        drawing,
        randn([3], (3, 64, 64), "base", "x_T"),
        base.schedule(torch.tensor(1.0, dtype=torch.float64)).float(),
    )
    options = {"seed": 3, "stages": ("base",)} | QUIET
    full = tiny_pipe("a ring", image=drawing, strength=1.0, **options).images[0]
    assert torch.equal(full, tiny_pipe("a ring", x_T=x_T, **options).images[0])
    # next to nothing of the image is left at t = 1
    assert (full - tiny_pipe("a ring", **options).images[0]).abs().mean() < 0.05


def test_the_smaller_the_strength_the_nearer_the_image(tiny_pipe, drawing, monkeypatch):
    """With the denoiser that knows the noise of x_t least where there is least of it."""
    stage = tiny_pipe.stages["base"]

    def denoise(x_t, t):  # shrinks the noise, as the posterior mean of a Gaussian world does
        log_snr = stage.schedule(t.double()).float()
        return log_snr.sigmoid().sqrt() * x_t

    monkeypatch.setattr(type(stage), "denoiser", lambda *_: denoise)
    errors = [
        (
            tiny_pipe(
                "a ring",
                image=drawing,
                strength=strength,
                num_inference_steps=20,
                stages=("base",),
                **QUIET,
            ).images[0]
            - drawing[0]
        )
        .abs()
        .mean()
        for strength in (0.02, 0.2, 0.5, 1.0)
    ]
    assert errors[0] < 0.03 and errors == sorted(errors) and errors[-1] > 0.3


def test_strength_is_the_time_at_which_sampling_starts(tiny_pipe, drawing):
    times = []
    out = tiny_pipe(
        "a ring",
        image=drawing,
        strength=0.6,
        num_inference_steps={"base": 4, "sr_256": 2},
        on_step=lambda stage, state: times.append((stage, state.t, state.s)),
        **QUIET,
    )
    assert times == [
        ("base", pytest.approx(0.6), 0.5),
        ("base", 0.5, 0.25),
        ("base", 0.25, 0.0),
        ("sr_256", 1.0, 0.5),
        ("sr_256", 0.5, 0.0),
    ]
    assert all(x.isfinite().all() for x in out.stages.values())


def test_an_image_may_be_a_pil_image_of_any_size_or_one_for_each_prompt(tiny_pipe, drawing):
    options = {"seed": [1, 2], "strength": 0.5, "stages": ("base",)} | QUIET
    prompts = ["a ring", "a star"]
    image = imagen_mini.utils.images.to_pil(drawing)[0]
    as_tensor = imagen_mini.utils.images.image_to_tensor(image)[None]
    expected = tiny_pipe(prompts, image=as_tensor, **options).stages["base"]
    for given in (image, [image], [image, image], as_tensor.expand(2, -1, -1, -1)):
        out = tiny_pipe(prompts, image=given, **options).stages["base"]
        assert torch.equal(out, expected)
    wide = image.resize((400, 300))
    assert tiny_pipe(prompts, image=wide, **options).stages["base"].shape == (2, 3, 64, 64)


def test_an_edit_starts_source_and_target_from_one_image(tiny_pipe, drawing):
    prompts, edit = ["a red ring", "a red star"], Replace(1.0, 1.0, shared_prompt_steps=0.5)
    options = {"image": drawing, "strength": 0.9, "num_inference_steps": 6} | QUIET
    source, target = tiny_pipe(prompts, edit=edit, **options).stages["base"]
    assert torch.allclose(
        source, tiny_pipe(prompts[0], **options).stages["base"][0], rtol=0, atol=1e-4
    )
    assert (source - target).abs().max() > 1e-3
    two = torch.cat([drawing, -drawing])
    for given in ({"image": two}, {"x_T": two}):
        with pytest.raises(ValueError, match="from one noise: (image|x_T) differs between prompts"):
            tiny_pipe(prompts, edit=edit, **given, **QUIET)


NAN = torch.full((1, 3, 64, 64), float("nan"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"x_T": torch.zeros(1, 3, 32, 32)}, r"x_T \[1, 3, 32, 32\]: expected \[1, 3, 64, 64\]"),
        ({"x_T": torch.zeros(3, 64, 64)}, r"x_T \[3, 64, 64\]: expected \[1, 3, 64, 64\]"),
        ({"x_T": torch.zeros(2, 3, 64, 64)}, r"x_T \[2, 3, 64, 64\]: .*for 1 prompts"),
        ({"x_T": NAN}, "x_T: not all values are finite"),
        ({"image": torch.zeros(1, 1, 64, 64)}, r"image \[1, 1, 64, 64\]: expected"),
        ({"low_res": torch.zeros(1, 1, 64, 64)}, r"low_res \[1, 1, 64, 64\]: expected"),
        ({"low_res": NAN}, "low_res: not all values are finite"),
        ({"image": torch.full((1, 3, 64, 64), 255.0)}, r"from 255 to 255; expected \[-1, 1\]"),
        ({"image": NAN}, "image: not all values are finite"),
        ({"image": torch.zeros(1, 3, 64, 64), "strength": 0.0}, "strength 0.0; expected a number"),
        ({"image": torch.zeros(1, 3, 64, 64), "strength": 1.2}, "strength 1.2; expected a number"),
        ({"strength": 0.5}, "strength 0.5 without an image"),
        (
            {"image": torch.zeros(1, 3, 64, 64), "x_T": torch.zeros(1, 3, 64, 64)},
            "x_T and image are both given",
        ),
        (
            {"x_T": torch.zeros(1, 3, 64, 64), "low_res": torch.full((1, 3, 64, 64), -0.5)},
            r"x_T .*expected \[1, 3, 256, 256\]",
        ),
    ],
)
def test_given_noise_or_an_image_that_does_not_fit_is_an_error(tiny_pipe, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipe("a ring", **options, **QUIET)


@pytest.mark.parametrize("image", ["a.png", 3, [], ["a.png"]])
def test_what_is_no_image_is_an_error_that_names_its_type(tiny_pipe, image):
    with pytest.raises(TypeError, match="image.*expected .*PIL images"):
        tiny_pipe("a ring", image=image, **QUIET)
    with pytest.raises(TypeError, match="low_res.*expected .*PIL images"):
        tiny_pipe("a ring", low_res=image, **QUIET)
    with pytest.raises(TypeError, match="x_T .*expected a tensor"):
        tiny_pipe("a ring", x_T=image, **QUIET)


def test_an_edit_that_changes_nothing_warns_where_the_pipeline_was_called(tiny_pipe):
    edit = PromptSwitching(1.0)
    with pytest.warns(UserWarning, match="the edit changes nothing: in all 4 steps") as caught:
        tiny_pipe(["a ring", "a star"], edit=edit, stages=("base",), **QUIET)
    assert [w.filename for w in caught] == [__file__]


# ---------------------------------------------------------------- three stages


@pytest.fixture(scope="module")
def three_stages(encoder, randomize_zero_init):
    """An untrained cascade to 1024 px, with names that are not the usual ones."""
    torch.manual_seed(0)
    last = replace(TINY["sr_256"].unet, image_size=1024, low_res_size=256, patch=64)
    configs = [
        replace(TINY["base"], name="layout", num_inference_steps=2),
        replace(TINY["sr_256"], name="detail", num_inference_steps=1),
        StageConfig("sr_1024", last, num_inference_steps=1),
    ]
    return ImagenPipeline(encoder, [randomize_zero_init(DiffusionStage(c)) for c in configs])


def test_a_third_stage_enlarges_the_images_of_the_second(three_stages, tmp_path):
    out = three_stages("a ring", num_inference_steps={"sr_1024": 2}, progress=False)
    sizes = {name: tuple(x.shape) for name, x in out.stages.items()}
    assert sizes == {
        "layout": (1, 3, 64, 64),
        "detail": (1, 3, 256, 256),
        "sr_1024": (1, 3, 1024, 1024),
    }
    assert out.images[0].size == (1024, 1024)
    assert all(x.isfinite().all() and x.std() > 0.01 for x in out.stages.values())
    # the last stage alone, from the images of the second
    again = three_stages(
        "a ring", low_res=out.stages["detail"], num_inference_steps={"sr_1024": 2}, **QUIET
    )
    assert list(again.stages) == ["sr_1024"]
    assert torch.equal(again.stages["sr_1024"], out.stages["sr_1024"])
    # and from disk
    three_stages.save_pretrained(tmp_path)
    loaded = ImagenPipeline.from_pretrained(tmp_path)
    assert list(loaded.stages) == ["layout", "detail", "sr_1024"]
    plain, same = (p("a ring", **QUIET).stages for p in (three_stages, loaded))
    assert all(torch.equal(plain[name], same[name]) for name in plain)


def test_images_of_either_size_are_enlarged_by_the_stages_that_take_them(three_stages):
    out = three_stages(
        "a ring", low_res=torch.full((1, 3, 64, 64), -0.5), stages=("detail",), **QUIET
    )
    assert list(out.stages) == ["detail"]
    with pytest.raises(ValueError, match=r"with size one of \[64, 256\]"):
        three_stages("a ring", low_res=torch.full((1, 3, 128, 128), -0.5), **QUIET)


@pytest.mark.parametrize("name", ["", "sr 256", "../base", "256", "a-b"])
def test_the_name_of_a_stage_is_an_identifier(name):
    with pytest.raises(ValueError, match="name .*: expected an identifier"):
        StageConfig(name)


# ---------------------------------------------------------------- the package's public names


def test_every_public_name_is_found_at_the_top_of_the_package():
    for name in imagen_mini.__all__:
        assert getattr(imagen_mini, name).__name__ == name and name in dir(imagen_mini)
    assert imagen_mini.Replace is Replace and imagen_mini.ImagenPipeline is ImagenPipeline
    for name in imagen_mini.prompt_to_prompt.__all__:
        assert getattr(imagen_mini.prompt_to_prompt, name) is getattr(imagen_mini, name)


def test_the_package_alone_imports_no_large_library():
    large = ("torch", "numpy", "PIL", "transformers", "matplotlib")
    code = f"import sys, imagen_mini; print([m for m in {large} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
