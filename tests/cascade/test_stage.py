"""Noise-conditioning augmentation, a stage, and a stage's folder."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import imagen_mini.cascade.stage
from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.sampling import sample_from_stage, sampling_loop, starting_noise
from imagen_mini.cascade.sampling_options import resolve_sampling_options
from imagen_mini.cascade.serialization import load_stage, save_stage
from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.cascade.weight_transfer import (
    init_from_smaller,
    with_new_text_conditioning,
    with_text_projection,
)
from imagen_mini.diffusion.gaussian import from_x_0, q_sample
from imagen_mini.diffusion.schedules import SCHEDULES
from imagen_mini.utils.configuration import from_dict, to_dict

TINY = PRESETS["tiny"]


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, 64, 64, generator=g) * 2 - 1, torch.randn(4, 3, 64, 64, generator=g)


# ---------------------------------------------------------------- growth


def with_unet(config, **changes):
    return replace(config, unet=replace(config.unet, **changes))


def test_added_layers_add_nothing_at_first_and_learn(images, random_text, randomize_zero_init):
    trained = randomize_zero_init(
        DiffusionStage(with_unet(TINY["base"], text_layers=1, attention=("", "cross")))
    )
    stage = DiffusionStage(
        with_unet(TINY["base"], text_layers=2, attention=("cross", "cross+self"))
    )
    assert_the_output_is_kept_and_all_new_layers_have_gradients(
        stage,
        trained,
        images,
        random_text,
        {
            "text_layers.1",
            "down.0.attention.0",
            "up.0.attention.0",
            "down.1.attention.1",
            "mid.attention.1",
            "up.1.attention.1",
        },
    )


def test_added_blocks_and_attention_between_them_add_nothing_at_first_and_learn(
    images, random_text, randomize_zero_init
):
    trained = randomize_zero_init(DiffusionStage(TINY["base"]))
    stage = DiffusionStage(
        with_unet(TINY["base"], blocks=(1, 2), mid_blocks=2, attention_every_block=True)
    )
    between = {f"{place}.between.0.{i}" for place in ("down.1", "mid", "up.1") for i in (0, 1)}
    assert_the_output_is_kept_and_all_new_layers_have_gradients(
        stage,
        trained,
        images,
        random_text,
        {"down.1.blocks.1", "mid.blocks.1", "up.1.blocks.1", *between},
    )


def assert_the_output_is_kept_and_all_new_layers_have_gradients(
    stage, trained, images, random_text, expected
):
    new = init_from_smaller(stage, trained)
    assert set(new) == expected
    x_t, text, log_snr = images[1], random_text([3, 5, 4, 6]), torch.linspace(-5, 5, 4)
    torch.testing.assert_close(
        stage.net(x_t, log_snr, text), trained.net(x_t, log_snr, text), rtol=0, atol=0
    )
    stage.net(x_t, log_snr, text).square().sum().backward()
    for name in new:
        layer = stage.net.get_submodule(name)
        assert (
            layer.conv2 if name.rpartition(".")[0].endswith("blocks") else layer.out
        ).weight.grad.any(), name


def test_dead_channels_of_attention_can_learn_again(images, random_text, randomize_zero_init):
    """With both gains at 0 neither ever has a gradient. After the transfer the output is the same,
    and the keys' gains have one.
    """
    trained, stage = randomize_zero_init(DiffusionStage(TINY["base"])), DiffusionStage(TINY["base"])
    with torch.no_grad():
        for layer in trained.net.attention_layers:
            layer.q_norm.weight[::2], layer.k_norm.weight[::2] = 0.0, 0.0
    assert init_from_smaller(stage, trained) == []
    x_t, text, log_snr = images[1], random_text([3, 5, 4, 6]), torch.linspace(-5, 5, 4)
    outputs = [net(x_t, log_snr, text) for net in (stage.net, trained.net)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    for output in outputs:
        output.square().sum().backward()
    for revived, dead in zip(stage.net.attention_layers, trained.net.attention_layers):
        assert (
            not dead.k_norm.weight.grad[::2].any()
            and not dead.q_norm.weight.grad[::2].any()
            and dead.k_norm.weight.grad[1::2].all()
        )
        assert revived.k_norm.weight.grad.all(), revived.site.name


def test_a_stage_of_the_same_layers_receives_all_weights():
    trained, stage = DiffusionStage(TINY["base"]), DiffusionStage(TINY["base"])
    assert init_from_smaller(stage, trained) == [] and all(
        torch.equal(a, b)
        for a, b in zip(stage.state_dict().values(), trained.state_dict().values())
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": (32, 64)},
        {"text_layers": 1},
        {"attention": ("", "cross+self")},
        {"attention": ("", "hybrid")},
        {"blocks": (1, 2), "skip_scale": 0.5},
    ],
)
def test_what_is_more_than_added_layers_is_refused(changes):
    with pytest.raises(ValueError, match="do not fit.* the first is '"):
        init_from_smaller(
            DiffusionStage(with_unet(TINY["base"], **changes)), DiffusionStage(TINY["base"])
        )


@pytest.mark.parametrize("cross_attention_dim", [None, 96])
def test_new_text_conditioning_keeps_all_that_does_not_read_words(
    images, random_text, randomize_zero_init, cross_attention_dim
):
    unet = {"text_layers": 1, "cross_attention_dim": cross_attention_dim}
    trained = randomize_zero_init(
        DiffusionStage(replace(with_unet(TINY["base"], **unet), text_encoder="trained on"))
    )
    width = trained.config.unet.text_width + 32
    stage = with_new_text_conditioning(trained, width)
    unet = {"text_width": width, "cross_attention_dim": None}
    assert stage.config == replace(with_unet(trained.config, **unet), text_encoder=None)
    # 1. it takes text of the new width
    text = random_text([3, 5, 4, 6], width=width)
    stage.net(images[1], torch.linspace(-5, 5, 4), text).square().sum().backward()
    layers = [layer for layer in stage.net.attention_layers if layer.site.kind != "self"]
    assert layers and all(layer.text_to_kv.weight.grad.any() for layer in layers)
    # 2. all weights are the trained ones, but those of layers that read words
    own, old = stage.net.state_dict(), trained.net.state_dict()
    anew = {key for key in own if not torch.equal(own[key], old.get(key, own[key].new_zeros(0)))}
    assert len([key for key in anew if key.endswith("text_to_kv.weight")]) == len(layers)
    assert all(key.startswith(("text_layers.", "pooled_text.")) or ".text_" in key for key in anew)


def test_a_projected_encoder_is_read_as_the_former_one(images, random_text, randomize_zero_init):
    trained = randomize_zero_init(
        DiffusionStage(replace(with_unet(TINY["base"], text_layers=1), text_encoder="trained on"))
    ).double()
    words = trained.config.unet.text_width
    matrix = torch.randn(words, 48, generator=torch.Generator().manual_seed(0)).double()
    stage = with_text_projection(trained, matrix)
    assert (stage.config.unet.text_width, stage.config.unet.cross_attention_dim) == (48, words)
    assert stage.config.text_encoder is None
    # 1. a stage of vectors e computes what the trained one computes of P e
    text, x = random_text([3, 5, 4, 6], width=48).to(torch.float64), images[0]
    inputs = x.double(), torch.linspace(-5, 5, 4).double()
    former = replace(text, emb=text.emb @ matrix.T)
    torch.testing.assert_close(stage.net(*inputs, text), trained.net(*inputs, former))
    prepared = stage.net(*inputs, stage.net.prepare_text(text))
    torch.testing.assert_close(prepared, trained.net(*inputs, former))
    # 2. without a caption, all is as trained
    torch.testing.assert_close(stage.net(*inputs, text.null()), trained.net(*inputs, former.null()))
    # 3. and again for another encoder
    again = with_text_projection(stage, matrix @ torch.eye(48, 40).double())
    assert (again.config.unet.text_width, again.config.unet.cross_attention_dim) == (40, words)
    with pytest.raises(ValueError, match=rf"expected \[{words}, width of the text"):
        with_text_projection(trained, matrix[1:])


# ---------------------------------------------------------------- augmentation


def test_augmentation_at_level_zero_leaves_the_image(images):
    image, noise = images
    assert (augment_low_res(image, torch.zeros(4), noise) - image).square().mean().sqrt() < 0.01


def test_augmentation_at_level_one_leaves_only_noise(images):
    image, noise = images
    assert (augment_low_res(image, torch.ones(4), noise) - noise).square().mean().sqrt() < 0.01


def test_augmentation_keeps_the_variance_and_takes_a_level_for_each_image(images):
    noise = images[1]
    other = noise.flip(0)
    level = torch.tensor([0.0, 0.2, 0.5, 1.0])
    out = augment_low_res(other, level, noise)
    assert out.std((1, 2, 3)).tolist() == pytest.approx([1] * 4, abs=0.03)
    kept = (out * other).mean((1, 2, 3))  # alpha of each level
    assert kept.tolist() == pytest.approx(torch.cos(torch.pi * level / 2).tolist(), abs=0.03)


# ---------------------------------------------------------------- sampling from a stage


def test_a_stage_by_itself_generates_what_the_pipeline_does(tiny_pipe):
    base, prompts, seeds = tiny_pipe.stages["base"], ["a ring", "a star"], [1, 2]
    expected = tiny_pipe(prompts, seed=seeds, stages=("base",), progress=False).stages["base"]
    text = tiny_pipe.text_encoder(prompts)
    assert torch.equal(sample_from_stage(base, text, seeds), expected)
    noise = starting_noise(base, seeds)
    assert torch.equal(sample_from_stage(base, text, seeds, x_T=noise), expected)
    options = replace(resolve_sampling_options(base), num_inference_steps=2, sampler="ddpm")
    other = sample_from_stage(base, text, seeds, options)
    states = list(sampling_loop(base, base.denoiser(text), seeds, options))
    assert len(states) == 2 and torch.equal(states[-1].x_0_hat.clamp(-1, 1), other)
    assert (other - expected).abs().max() > 1e-3


def test_a_low_resolution_image_without_its_level_is_refused(tiny_pipe, batch):
    stage, text = tiny_pipe.stages["sr_256"], tiny_pipe.text_encoder("a ring")
    with pytest.raises(ValueError, match="low_res and aug_level go together"):
        stage.denoiser(text, torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="low_res needs aug_level"):
        stage.loss(**batch | {"aug_level": None})


# ---------------------------------------------------------------- a stage


@pytest.fixture
def batch(random_text, images):
    """Arguments of a super-resolution stage's loss."""
    g = torch.Generator().manual_seed(1)
    x_0, eps = (torch.randn(2, 3, 256, 256, generator=g) for _ in range(2))
    return {
        "x_0": x_0,
        "text": random_text([4, 3]),
        "t": torch.tensor([0.3, 0.8]),
        "eps": eps,
        "low_res": images[0][:2],
        "aug_level": torch.tensor([0.1, 0.4]),
        "low_res_noise": images[1][:2],
    }


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["x_0", "eps", "v"])
def test_the_loss_of_a_stage_is_zero_for_the_true_answer_and_positive_for_another(
    prediction, schedule, batch, monkeypatch
):
    stage = DiffusionStage(
        replace(TINY["sr_256"], prediction=prediction, schedule=schedule, log_snr_shift=-1.0)
    )
    log_snr = SCHEDULES[schedule](batch["t"], -1.0)
    x_t = q_sample(batch["x_0"], batch["eps"], log_snr)
    answer = from_x_0(batch["x_0"], prediction, x_t, log_snr)

    def network(given, given_log_snr, *_, **__):
        assert torch.equal(given, x_t) and torch.equal(given_log_snr, log_snr)
        return answer

    monkeypatch.setattr(stage.net, "forward", network)
    assert stage.loss(**batch).max() < 1e-6
    answer = answer + 0.1
    assert stage.loss(**batch).min() > 1e-5


def test_training_gives_the_network_the_augmented_image_and_its_level(batch, monkeypatch):
    stage, calls = DiffusionStage(TINY["sr_256"]), []

    def spy(low_res, aug_level, noise):
        assert (
            low_res is batch["low_res"]
            and aug_level is batch["aug_level"]
            and noise is batch["low_res_noise"]
        )
        calls.append(augment_low_res(low_res, aug_level, noise))
        return calls[-1]

    def network(x_t, log_snr, text, low_res, aug_level, use_pooled=None):
        assert low_res is calls[0] and torch.equal(aug_level, batch["aug_level"])
        return x_t

    monkeypatch.setattr(imagen_mini.cascade.stage, "augment_low_res", spy)
    monkeypatch.setattr(stage.net, "forward", network)
    stage.loss(**batch)
    assert len(calls) == 1


def test_the_loss_is_a_function_of_its_arguments_alone(batch, randomize_zero_init):
    torch.manual_seed(0)
    stage = randomize_zero_init(DiffusionStage(TINY["sr_256"]))
    first = stage.loss(**batch)
    torch.manual_seed(5)
    assert torch.equal(stage.loss(**batch), first)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_stage_s_schedule_is_the_one_of_its_configuration_shifted(schedule):
    t = torch.linspace(0.02, 0.98, 13)
    stage = DiffusionStage(replace(TINY["base"], schedule=schedule, log_snr_shift=-1.5))
    assert torch.allclose(stage.schedule(t), SCHEDULES[schedule](t) - 1.5)
    others = [other(t) - 1.5 for name, other in SCHEDULES.items() if name != schedule]
    assert not any(torch.allclose(stage.schedule(t), other, atol=0.1) for other in others)


# ---------------------------------------------------------------- on disk


@pytest.fixture
def folder(tmp_path, randomize_zero_init):
    torch.manual_seed(0)
    save_stage(randomize_zero_init(DiffusionStage(TINY["base"])), tmp_path / "base", {"steps": 3})
    return tmp_path / "base"


def test_a_stage_comes_back_from_disk_as_it_was(folder, randomize_zero_init):
    torch.manual_seed(0)
    stage, again = randomize_zero_init(DiffusionStage(TINY["base"])), load_stage(folder)
    assert again.config == stage.config and not again.training
    weights = again.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in stage.state_dict().items())
    assert json.loads((folder / "config.json").read_text())["training"] == {"steps": 3}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name}"):
        load_stage(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 5000, -1])
def test_truncated_weights_cannot_be_read(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match="model.safetensors cannot be read.*again"):
        load_stage(folder)


def change_config(folder, change):
    values = json.loads((folder / "config.json").read_text())
    change(values["stage"])
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    "where, key, value, message",
    [
        ("stage", "colour", 1, "StageConfig has no 'colour'"),
        ("unet", "depth", 3, "UNetConfig has no 'depth'"),
        ("stage", "guidance_scale", "high", "guidance_scale: expected float; got 'high'"),
        ("stage", "guidance_scale", True, "guidance_scale: expected float; got True"),
        ("stage", "num_inference_steps", 2.5, "num_inference_steps: expected int; got 2.5"),
        ("unet", "channels", 32, "channels: expected a list; got 32"),
        ("unet", "channels", ["32", 32], "channels: expected int; got '32'"),
        ("unet", "patch", 0, "patch must be at least 1; got 0"),
        ("unet", "blocks", [], "blocks"),
        ("stage", "unet", [1], "expected an object"),
        ("stage", "prediction", "noise", "prediction 'noise'; expected one of eps, x_0, v"),
        (
            "stage",
            "schedule",
            "quadratic",
            "schedule 'quadratic'; expected one of cosine, linear, sigmoid",
        ),
        ("unet", "image_size", None, "image_size: expected int; got None"),
    ],
)
def test_a_changed_configuration_is_an_error_that_names_the_field(
    folder, where, key, value, message
):
    change_config(
        folder, lambda stage: (stage if where == "stage" else stage["unet"]).update({key: value})
    )
    with pytest.raises(ValueError, match=f"config.json is no stage configuration: .*{message}"):
        load_stage(folder)


def test_a_configuration_from_before_there_was_a_choice_of_schedule_means_cosine(folder):
    change_config(folder, lambda stage: stage.pop("schedule"))
    assert load_stage(folder).config == replace(TINY["base"], schedule="cosine")


def test_a_configuration_with_former_names_of_settings_means_the_same(folder):
    stage = load_stage(folder)
    config = replace(stage.config, timestep_spacing="karras")
    save_stage(DiffusionStage(config), folder)
    former = {"timestep_spacing": "spacing"}
    former_unet = {"attention_every_block": "attend_each", "emb_dim": "emb_width"}

    def rename(values):
        for groups, names in ((values, former), (values["unet"], former_unet)):
            for new, old in names.items():
                groups[old] = groups.pop(new)

    change_config(folder, rename)
    assert load_stage(folder).config == config
    change_config(folder, lambda values: values.update(timestep_spacing="uniform"))
    with pytest.raises(ValueError, match="'timestep_spacing' are two names of one setting"):
        load_stage(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"unet": {}}', '{"stage": null}', '"stage"', "\ufeff{}"]
)
def test_a_configuration_that_is_no_configuration_is_an_error(folder, text):
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is no stage configuration"):
        load_stage(folder)


def test_weights_of_another_network_are_an_error_that_names_the_first_tensor(folder):
    change_config(folder, lambda stage: stage["unet"].update(emb_dim=96))
    with pytest.raises(ValueError, match="weights are not those of config.json.*emb"):
        load_stage(folder)


def test_a_tensor_too_few_or_too_many_is_an_error(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="1 tensors differ, the first is 'extra'"):
        load_stage(folder)
    del weights["stem.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="1 tensors differ, the first is 'stem.bias'"):
        load_stage(folder)


def test_the_presets_survive_json():
    for preset in PRESETS.values():
        for config in preset.values():
            assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


# ---------------------------------------------------------------- hostile folders


def test_weights_that_are_not_finite_are_refused(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    weights[name] = weights[name] * float("nan")
    save_file(weights, file)
    with pytest.raises(ValueError, match=f"1 weights are not finite, the first is '{name}'"):
        load_stage(folder)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("model.safetensors.index.json", "[" * 100_000, "is no index of shards"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "' + "x" * 300 + '"}}',
            "has no xxx",
        ),
        ("model.safetensors.index.json", '{"weight_map": {"a": "a\\u0000"}}', "is no stage"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "has no 3"),
        ("config.json", '{"stage":' + "[" * 100_000, "is no stage configuration"),
    ],
)
def test_an_absurd_file_of_a_stage_is_a_plain_error(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_stage(folder)


def test_weights_of_gigabytes_that_do_not_fit_are_refused_by_their_header(folder):
    file = folder / "model.safetensors"
    size = 20 * 10**9
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}})
    with open(file, "wb") as sparse:
        sparse.write(len(header).to_bytes(8, "little") + header.encode())
        sparse.truncate(8 + len(header) + size)
    with pytest.raises(ValueError, match="the weights are not those of config.json"):
        load_stage(folder)


def test_no_stage_is_called_as_the_folder_of_the_text_encoder():
    with pytest.raises(ValueError, match="name 'text_encoder': expected an identifier"):
        StageConfig("text_encoder")
