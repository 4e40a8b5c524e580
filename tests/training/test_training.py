"""The training loop, its optimizers and checkpoints, on a tiny network."""

import dataclasses
import hashlib
import io
import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.alternatives import mix_alternatives
from imagen_mini.data.base import Batch
from imagen_mini.data.metadata import write_folder
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.diffusion.losses import LOSS_WEIGHTS
from imagen_mini.models.unet import UNetLevel
from imagen_mini.scenes.captions import parse_caption
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.scene import training_scene
from imagen_mini.scenes.world import WORLDS
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder
from imagen_mini.training import optimizers
from imagen_mini.training.batches import (
    draw_noise,
    draw_step_variables,
    loss_extras,
    loss_inputs,
)
from imagen_mini.training.checkpoint import (
    checkpoints,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
)
from imagen_mini.training.config import LR_SCHEDULES, TrainConfig
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import learning_rate, train
from imagen_mini.training.optimizers import OPTIMIZERS, make_optimizers, one_cycle, orthogonalize
from imagen_mini.utils import precision
from imagen_mini.utils.configuration import (
    RENAMED,
    RENAMED_FIELDS,
    from_dict,
    override,
    to_dict,
)
from train.log import TIMES, read_log
from train.train import main

CONFIG = TrainConfig(
    steps=6,
    batch_size=4,
    warmup=2,
    learning_rate=1e-2,
    precision="fp32",
    optimizer="adamw",
    ema_half_life=3,
)


class Run:
    """A stage with its optimizers and average, as the training script sets them up."""

    def __init__(self, config, stage="base"):
        torch.manual_seed(config.seed)
        self.config, self.stage = (
            config,
            DiffusionStage(PRESETS["tiny"][stage]).to(memory_format=torch.channels_last),
        )
        self.optimizers = make_optimizers(
            self.stage.net,
            config.optimizer,
            config.learning_rate,
            config.betas,
            config.weight_decay,
        )
        self.ema = EMA(self.stage.net, config.ema_half_life)

    def train(self, encoder, start=0, data=None):
        return train(self.stage, encoder, self.config, self.optimizers, self.ema, start, data)

    def tensors(self):
        return {
            "weights": self.stage.net.state_dict(),
            "ema": self.ema.weights,
            "optimizer": optimizer_tensors(self.optimizers),
        }


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


# ---------------------------------------------------------------- what a step is a function of


def test_the_learning_rate_warms_up_stays_and_cools_down_to_nearly_zero():
    config = TrainConfig(steps=100, warmup=10, cooldown=0.2, learning_rate=2.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10:81] == [2.0] * 71
    assert rates[80:] == pytest.approx([2.0 * (20 - i) / 20 for i in range(20)])
    assert learning_rate(config, 100) == 0 == learning_rate(config, 150)


def test_the_learning_rate_may_fall_by_a_cosine_or_stay():
    config = TrainConfig(steps=110, warmup=10, lr_schedule="cosine", learning_rate=2.0)
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx([1 + math.cos(math.pi * i / 100) for i in range(100)])
    assert learning_rate(config, 110) == pytest.approx(0) and learning_rate(
        config, 999
    ) == pytest.approx(0)
    constant = replace(config, lr_schedule="constant")
    assert [learning_rate(constant, step) for step in (4, 10, 60, 109, 999)] == [
        1.0,
        2.0,
        2.0,
        2.0,
        2.0,
    ]
    assert all(
        learning_rate(replace(config, warmup=0, lr_schedule=name), 0) == 2.0
        for name in LR_SCHEDULES
    )


def test_the_loop_sets_the_learning_rate_of_the_step(encoder):
    run = Run(CONFIG)
    for state in run.train(encoder):
        expected = learning_rate(CONFIG, state.step - 1)
        assert state.learning_rate == expected
        assert {g["lr"] for o in run.optimizers.values() for g in o.param_groups} == {expected}


def scene_batch(config, step, size=64, low=None):
    """The images of a step, as the loop asks for them."""
    return SceneDataset(config.seed, config.object_count_weights).batch(
        range(step * config.batch_size, (step + 1) * config.batch_size), size, low
    )


def test_everything_random_is_a_function_of_seed_step_and_sample_number(monkeypatch):
    stage = Run(CONFIG, "sr_256").stage

    def all_of(config, step, seed_of_nothing):
        torch.manual_seed(seed_of_nothing)
        numbers = range(step * config.batch_size, (step + 1) * config.batch_size)
        batch = scene_batch(config, step, 256, 64)
        return {
            "images": batch.images,
            "low_res": batch.low_res,
            **draw_step_variables(config, stage, step),
            **draw_noise(config, stage, numbers, batch),
        }

    one = all_of(CONFIG, 2, 0)
    assert set(one) == {
        "images",
        "low_res",
        "t",
        "drop",
        "use_pooled",
        "aug_level",
        "eps",
        "low_res_noise",
    }
    assert same(one, all_of(CONFIG, 2, 1))
    for other in (all_of(CONFIG, 3, 0), all_of(replace(CONFIG, seed=1), 2, 0)):
        assert not any(
            torch.equal(one[k], other[k]) for k in one if k not in ("drop", "use_pooled")
        )


def test_a_sample_has_the_same_noise_in_any_batch():
    stage, batch = Run(CONFIG, "sr_256").stage, scene_batch(CONFIG, 0, 256, 64)
    together = draw_noise(CONFIG, stage, range(4), batch)
    alone = draw_noise(
        CONFIG, stage, [2], Batch(batch.images[2:3], batch.low_res[2:3], batch.captions[2:3])
    )
    assert all(torch.equal(together[k][2:3], alone[k]) for k in together)
    generated = torch.cat([x.flatten() for x in together.values()])
    assert abs(generated.mean()) < 0.01 and abs(generated.std() - 1) < 0.01
    assert not torch.equal(together["eps"][0], together["eps"][1]) and not torch.equal(
        together["eps"][0, :, :64, :64], together["low_res_noise"][0]
    )


def test_the_loop_trains_on_the_samples_of_its_step(encoder):
    class Watched(SceneDataset):
        def plan(self, indices, *sizes):
            asked.append((list(indices), *sizes[:2]))
            return super().plan(indices, *sizes)

    asked = []
    list(
        Run(replace(CONFIG, steps=3), "sr_256").train(
            encoder, start=1, data=Watched(CONFIG.seed, CONFIG.object_count_weights)
        )
    )
    assert asked == [([4, 5, 6, 7], 256, 64), ([8, 9, 10, 11], 256, 64)]


class Copied:
    """Scenes by a data set that has batches and makes no plans."""

    def batch(self, indices, size, low_res_size=None, device=None):
        scenes = SceneDataset(CONFIG.seed, CONFIG.object_count_weights)
        return scenes.batch(indices, size, low_res_size, device)


@pytest.mark.parametrize("workers", [0, 1])
def test_other_data_needs_batches_and_no_plans(encoder, workers):
    config = replace(CONFIG, num_workers=workers)
    copied, built_in = (
        [state.loss for state in Run(config).train(encoder, data=data)] for data in (Copied(), None)
    )
    assert copied == pytest.approx(built_in, rel=1e-6) and len(copied) == CONFIG.steps


class Greys:
    """A second world in ten lines: images of one brightness, and its name as their caption."""

    def batch(self, indices, size, low_res_size=None, device=None):
        levels = torch.tensor([i % 3 - 1.0 for i in indices], device=device)[:, None, None, None]
        low_res = low_res_size and levels.expand(-1, 3, low_res_size, low_res_size)
        captions = [("black", "grey", "white")[i % 3] for i in indices]
        return Batch(levels.expand(-1, 3, size, size), low_res, captions)

    def describe(self):
        return {"source": "greys"}


def test_a_second_world_trains_without_a_change_to_the_loop(encoder):
    config = replace(CONFIG, steps=40, batch_size=6, learning_rate=3e-3, cond_drop_prob=0.0)
    losses = [state.loss for state in Run(config).train(encoder, data=Greys())]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert next(Run(CONFIG, "sr_256").train(encoder, data=Greys())).loss > 0


def test_a_second_world_goes_through_the_training_script(monkeypatch, tmp_path):
    """With its sample grids, its checkpoints and resuming."""
    monkeypatch.setattr("train.train.open_dataset", lambda *_, **__: Greys())
    options = ["--stage", "base", "--preset", "tiny", "--device", "cpu", "--output-dir"]
    options += [str(tmp_path), "batch_size=4", "sample_every=2"]
    main([*options, "steps=2"])
    main([*options, "--resume", "steps=3"])
    _, state, _ = load_checkpoint(tmp_path)
    assert state["step"] == 3 and state["data"] == {"source": "greys"}
    assert sorted(p.name for p in tmp_path.glob("samples_*.png")) == [
        "samples_00000002.png",
        "samples_00000003.png",
    ]


@pytest.mark.parametrize(
    "stage, accumulate, workers", [("base", 1, 0), ("base", 2, 1), ("sr_256", 2, 1)]
)
def test_with_equivalents_every_loss_is_that_of_the_images_shown_and_of_two_targets(
    encoder, stage, accumulate, workers
):
    config = replace(
        CONFIG,
        equivalent_prob=0.6,
        contradiction_prob=0.4 * (stage == "base"),
        steps=1,
        gradient_accumulation_steps=accumulate,
        num_workers=workers,
    )
    run, size, low = Run(config, stage), *((64, None) if stage == "base" else (256, 64))
    before = {k: v.clone() for k, v in run.stage.state_dict().items()}
    (state,) = run.train(encoder)
    run.stage.load_state_dict(before)
    data, indices = SceneDataset(config.seed, config.object_count_weights), range(4)
    random = draw_step_variables(config, run.stage, 0, loss_extras(data, config, run.stage))
    batch, alternatives = (
        data.batch(indices, size, low),
        data.alternatives(indices, size, low),
    )
    assert random["equivalent_mix"].any() and random["contradiction"].any() == (stage == "base")
    assert (
        random.keys() - {"equivalent_mix", "contradiction"}
        == draw_step_variables(CONFIG, run.stage, 0).keys()
    )
    way = mix_alternatives(
        batch.images,
        alternatives,
        random["equivalent_mix"],
        random["contradiction"],
        run.stage.schedule(random["t"]),
    )
    losses = run.stage.loss(
        batch.images,
        encoder(batch.captions).drop(random["drop"]),
        random["t"],
        **draw_noise(config, run.stage, indices, batch),
        use_pooled=random["use_pooled"],
        low_res=batch.low_res,
        aug_level=random.get("aug_level"),
        **way,
        weight=lambda log_snr: LOSS_WEIGHTS[config.loss_weight](log_snr, config.loss_cap),
    )
    assert state.loss == pytest.approx(losses.mean().item(), rel=2e-2)


def test_equivalents_and_contradictions_where_there_are_none_are_an_error(encoder):
    with pytest.raises(ValueError, match="only a base stage decides what stands where"):
        next(Run(replace(CONFIG, contradiction_prob=0.5), "sr_256").train(encoder))
    with pytest.raises(ValueError, match="only the built-in world has these"):
        next(Run(replace(CONFIG, equivalent_prob=0.5)).train(encoder, data=object()))


def test_a_graph_of_a_step_without_a_gpu_is_an_error(encoder):
    with pytest.raises(
        ValueError,
        match="a CUDA graph of a step needs one GPU and gradient_accumulation_steps=1; this is 1 x "
        "cpu",
    ):
        next(train(Run(CONFIG).stage, encoder, CONFIG, {}, None, cuda_graph=True))


def test_padded_text_trains_as_it_does_without_padding(encoder, randomize_zero_init):
    """What a recorded step does: texts are padded to one length."""
    run = Run(CONFIG)
    randomize_zero_init(run.stage)
    plain, padded = (
        next(
            loss_inputs(
                SceneDataset(),
                encoder,
                run.stage,
                CONFIG,
                [range(4)],
                0,
                torch.device("cpu"),
                fixed,
            )
        )
        for fixed in (False, True)
    )
    assert padded["mask"].shape[1] == 32 > plain["mask"].shape[1] and torch.equal(
        padded["mask"].sum(1), plain["mask"].sum(1)
    )
    losses = [
        run.stage.loss(text=TextEmbeddings(i.pop("emb"), i.pop("mask")), **i)
        for i in (plain, padded)
    ]
    assert torch.allclose(*losses, rtol=1e-5)


def test_times_are_stratified_and_text_is_dropped_as_often_as_asked():
    stage, config = Run(CONFIG).stage, TrainConfig(cond_drop_prob=0.1, pooled_drop_prob=0.3)
    draws = [draw_step_variables(config, stage, step) for step in range(100)]
    assert all((d["t"] * 64).long().sort().values.tolist() == list(range(64)) for d in draws)
    assert torch.cat([d["drop"] for d in draws]).float().mean().item() == pytest.approx(
        0.1, abs=0.015
    )
    assert torch.cat([1 - d["use_pooled"] for d in draws]).mean().item() == pytest.approx(
        0.3, abs=0.025
    )


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_times_have_the_density_asked_for(power):
    stage, config = Run(CONFIG).stage, TrainConfig(time_power=power)
    t = torch.cat([draw_step_variables(config, stage, step)["t"] for step in range(50)])
    for x in (0.3, 0.5, 0.9):  # density p t^(p - 1), so P(t < x) = x^p
        assert (t < x).float().mean().item() == pytest.approx(x**power, abs=0.02)


def test_scenes_have_as_many_objects_as_asked_for():
    for counts, expected in (((0, 1), {2}), ((1, 0, 1), {1, 3})):
        assert {len(training_scene(0, i, counts).objects) for i in range(60)} == expected


def test_images_and_low_resolution_images_of_a_batch_show_the_captions_scenes():
    x_0, low_res, captions = scene_batch(CONFIG, 0, 256, 64)
    for large, small, caption in zip(parse_image(x_0), parse_image(low_res), captions):
        assert (
            parse_caption(caption).fits(large.scene)
            and large.scene.without_texture() == small.scene
        )


# ---------------------------------------------------------------- the loop


@pytest.mark.parametrize(
    "optimizer, stage",
    [("adamw", "base"), ("adafactor", "base"), ("muon", "base"), ("muon", "sr_256")],
)
def test_stopping_and_resuming_from_a_checkpoint_changes_no_bit(
    encoder, tmp_path, optimizer, stage
):
    config = replace(CONFIG, optimizer=optimizer, steps=4)
    through = Run(config, stage)
    for state in through.train(encoder):
        if state.step == 2:
            save_checkpoint(tmp_path, 2, through.tensors(), {"step": 2})
    tensors, saved, _ = load_checkpoint(tmp_path)
    resumed = Run(replace(config, seed=9), stage)  # other initial weights, to be overwritten
    resumed.config = config
    resumed.stage.net.load_state_dict(tensors["weights"])
    resumed.ema.weights = tensors["ema"]
    restore_optimizers(resumed.optimizers, tensors["optimizer"])
    assert [state.step for state in resumed.train(encoder, saved["step"])] == [3, 4]
    for name, expected in through.tensors().items():
        assert same(resumed.tensors()[name], expected), name
    assert not same(tensors["weights"], resumed.stage.net.state_dict())


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_have_the_gradient_of_the_batch(encoder, randomize_zero_init, accumulate):
    def gradients(parts):
        run = Run(replace(CONFIG, gradient_accumulation_steps=parts, max_grad_norm=1e9))
        randomize_zero_init(run.stage)
        state = next(run.train(encoder))
        return state, {name: p.grad for name, p in run.stage.named_parameters()}

    (one, expected), (parts, got) = gradients(1), gradients(accumulate)
    assert parts.loss == pytest.approx(one.loss, rel=1e-5)
    assert parts.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    scale = max(g.abs().max() for g in expected.values())
    assert all(
        torch.allclose(got[name], expected[name], rtol=1e-3, atol=1e-5 * scale.item())
        for name in expected
    )


def test_gradient_checkpointing_computes_every_level_twice_and_returns_the_same_loss_and_gradients(
    encoder, randomize_zero_init, monkeypatch
):
    calls, run_stack = [], UNetLevel.run
    monkeypatch.setattr(
        UNetLevel, "run", lambda self, *args: calls.append(self) or run_stack(self, *args)
    )

    def step(on):
        calls.clear()
        run = Run(replace(CONFIG, gradient_checkpointing=on))
        randomize_zero_init(run.stage)
        state = next(run.train(encoder))
        return (
            len(calls),
            state.loss,
            {name: p.grad for name, p in run.stage.named_parameters()},
            run.stage,
        )

    (once, loss, gradients, _), (twice, same_loss, same_gradients, stage) = step(False), step(True)
    assert twice == 2 * once and loss == same_loss and same(gradients, same_gradients)
    calls.clear()
    with torch.no_grad():
        stage.net(torch.zeros(1, 3, 64, 64), torch.zeros(1), encoder("a ring"))
    assert len(calls) == once  # nothing to compute again where there is no backward pass


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_falls_when_one_batch_is_seen_again_and_again(encoder, optimizer):
    class Again:
        def batch(self, *_):
            return scene_batch(CONFIG, 0)

    # Adafactor's is relative to the size of the weights
    rate = 0.1 if optimizer == "adafactor" else 4e-3
    losses = [
        s.loss
        for s in Run(replace(CONFIG, steps=60, learning_rate=rate, optimizer=optimizer)).train(
            encoder, data=Again()
        )
    ]
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10]), losses


def test_a_loss_that_is_not_finite_is_an_error_and_leaves_the_weights_as_they_were(
    encoder, monkeypatch
):
    run = Run(CONFIG)
    steps = run.train(encoder)
    next(steps)
    before = {
        part: {k: v.clone() for k, v in tensors.items()} for part, tensors in run.tensors().items()
    }
    world = WORLDS["scenes"]
    broken = replace(world, render_packed=lambda *args: world.render_packed(*args) * float("nan"))
    monkeypatch.setitem(WORLDS, "scenes", broken)
    with pytest.raises(
        FloatingPointError, match="step 1 of stage base: loss nan.*weights were left as they were"
    ):
        next(steps)
    assert all(same(before[part], tensors) for part, tensors in run.tensors().items())


def test_a_loss_that_is_not_finite_is_an_error_though_its_gradient_is(encoder, monkeypatch):
    run = Run(CONFIG)
    monkeypatch.setattr(
        DiffusionStage,
        "forward",
        lambda *_, x_0, **__: (
            run.stage.net.out.bias.sum() * 0 + x_0.new_full((len(x_0),), float("inf"))
        ),
    )
    before = {part: {k: v.clone() for k, v in of.items()} for part, of in run.tensors().items()}
    with pytest.raises(FloatingPointError, match="loss inf, gradient norm 0.0"):
        next(run.train(encoder))
    assert all(same(before[part], tensors) for part, tensors in run.tensors().items())


def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_reported(
    encoder, randomize_zero_init
):
    run = Run(replace(CONFIG, max_grad_norm=0.01))
    randomize_zero_init(run.stage)
    state = next(run.train(encoder))
    norm = torch.stack([p.grad.norm() for p in run.stage.parameters()]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3) and state.gradient_norm > 0.02


def test_the_average_lies_between_the_weights_it_has_seen_and_follows_them():
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0.0)
    ema = EMA(net, half_life=4)
    net.weight.data.fill_(1.0)
    for step in range(100, 104):  # late in a run its memory is the half-life
        ema.update(step)
    assert ema.weights["weight"].item() == pytest.approx(0.5)
    early = EMA(net, half_life=1000)
    net.weight.data.fill_(2.0)
    early.update(1)  # early it is short, and forgets the initial weights
    assert early.weights["weight"].item() == pytest.approx(1.5)
    assert net.weight.item() == 2


def test_the_loop_updates_the_average_after_every_step_and_tells_it_the_step(encoder, monkeypatch):
    run, told = Run(CONFIG), []
    monkeypatch.setattr(run.ema, "update", told.append)
    assert [state.step for state in run.train(encoder, start=3)] == told == [4, 5, 6]


# ---------------------------------------------------------------- optimizers


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (1, 9)])
def test_orthogonalize_pushes_every_singular_value_to_about_one(shape):
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(1, 0.05, len(s))) @ v
    for scale in (1e-3, 1.0, 1e3):
        values = torch.linalg.svdvals(orthogonalize(matrix * scale))
        assert values.min() > 0.6 and values.max() < 1.3


def test_orthogonalize_keeps_the_singular_vectors():
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(6, 6))
    rotated = u.T @ orthogonalize(u @ torch.diag(torch.linspace(1, 0.3, 6)) @ v) @ v.T
    assert (rotated - torch.diag(rotated.diag())).abs().max() < 1e-4


def test_muon_computes_in_the_format_in_which_the_device_is_faster(monkeypatch):
    torch.manual_seed(0)
    start, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)

    def step(speed_up, **options):
        kernel, seen = torch.nn.Parameter(start.clone()), []
        kernel.grad = gradient
        monkeypatch.setattr(precision, "speed_up_of_bf16", lambda device: speed_up)
        monkeypatch.setattr(
            optimizers, "orthogonalize", lambda m: seen.append(m.dtype) or orthogonalize(m)
        )
        optimizers.Muon([kernel], lr=1.0, weight_decay=0.0, **options).step()
        return seen, (kernel.detach() - start).flatten()

    (fast, one), (slow, other) = step(2.0), step(0.03)
    assert fast == [torch.bfloat16] and slow == [torch.float32]
    # a run has decided, and no process measures again
    assert step(2.0, dtype=torch.float32)[0] == [torch.float32]
    assert step(0.03, dtype=torch.bfloat16)[0] == [torch.bfloat16]
    assert torch.cosine_similarity(one, other, 0) > 0.999


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_has_exactly_one_optimizer_and_only_kernels_decay(name):
    net = DiffusionStage(PRESETS["tiny"]["sr_256"]).net
    groups = [
        g
        for o in make_optimizers(net, name, 1e-3, (0.9, 0.99), 0.01).values()
        for g in o.param_groups
    ]
    given = [id(p) for g in groups for p in g["params"]]
    assert sorted(given) == sorted(id(p) for p in net.parameters())
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert all(
        key.endswith("weight") and p.ndim >= 2
        for key, p in net.named_parameters()
        if id(p) in decayed
    )


def test_an_unknown_optimizer_is_an_error():
    with pytest.raises(ValueError, match="'sgd'; expected one of muon, adamw, adafactor"):
        make_optimizers(DiffusionStage(PRESETS["tiny"]["base"]).net, "sgd", 1e-3, (0.9, 0.99), 0.01)


# ---------------------------------------------------------------- configuration


def test_overrides_set_fields_by_name_also_nested_ones():
    config = override(
        PRESETS["tiny"]["base"],
        ["unet.channels=[48,96]", "unet.head_dim=16", "guidance_scale=5", "prediction=v"],
    )
    assert (
        config.unet.channels == (48, 96)
        and config.guidance_scale == 5.0
        and config.prediction == "v"
    )
    assert (
        replace(config, unet=PRESETS["tiny"]["base"].unet, guidance_scale=3.0, prediction="x_0")
        == PRESETS["tiny"]["base"]
    )


@pytest.mark.parametrize(
    "config, assignment, message",
    [
        (TrainConfig(), "stepz=3", "unknown setting 'stepz'; TrainConfig has steps,"),
        (TrainConfig(), "steps=many", "TrainConfig.steps: expected int; got 'many'"),
        (TrainConfig(), "steps=2.5", "TrainConfig.steps: expected int; got 2.5"),
        (TrainConfig(), "steps=true", "TrainConfig.steps: expected int; got True"),
        (TrainConfig(), "betas=0.9", "TrainConfig.betas: expected a list"),
        (TrainConfig(), "steps", "'steps' is no override; expected key=value"),
        (TrainConfig(), "optimizer=sgd", "optimizer 'sgd'; expected one of muon, adamw, adafactor"),
        (
            TrainConfig(),
            "lr_schedule=step",
            "lr_schedule 'step'; expected one of cooldown, cosine, constant",
        ),
        (TrainConfig(), "object_count_weights=[1,1,1,1,1]", "up to four weights"),
        (TrainConfig(), "object_count_weights=[0,0]", "not all 0"),
        (TrainConfig(), "time_power=0", "time_power must be above 0; got 0"),
        (
            TrainConfig(),
            "gradient_accumulation_steps=3",
            "batch_size 64 cannot be split into gradient_accumulation_steps=3",
        ),
        (TrainConfig(), "gradient_accumulation_steps=0", "gradient_accumulation_steps"),
        (StageConfig(), "unet.depth=3", "unknown setting 'unet.depth'; unet has image_size,"),
        (StageConfig(), "net.depth=3", "StageConfig has no group 'net'"),
        (StageConfig(), 'unet.channels=[48,"a"]', "UNetConfig.channels: expected int; got 'a'"),
        (StageConfig(), "unet=3", "UNetConfig: expected an object"),
    ],
)
def test_overrides_refuse_unknown_names_and_wrong_types(config, assignment, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        override(config, [assignment])


def test_a_training_configuration_survives_json():
    config = dataclasses.replace(TrainConfig(), steps=7, betas=(0.5, 0.6))
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


# ---------------------------------------------------------------- the script


def arguments(run, encoder_folder, *more, steps=3):
    overrides = [m for m in more if "=" in m]
    return [
        "--stage",
        "base",
        "--preset",
        "tiny",
        "--output-dir",
        str(run),
        "--text-encoder",
        str(encoder_folder),
        "--device",
        "cpu",
        *(m for m in more if m not in overrides),
        f"steps={steps}",
        "batch_size=4",
        "warmup=1",
        "sample_every=0",
        "save_every=1",
        "log_every=1",
        "precision=fp32",
        *overrides,
    ]


def test_the_script_trains_stops_at_its_time_limit_and_resumes_as_if_it_had_not_stopped(
    tmp_path, encoder, encoder_folder, capsys
):
    stopped, through = tmp_path / "a run with spaces, ü", tmp_path / "through"
    main(arguments(stopped, encoder_folder, "--time-limit", "0"))
    assert "time limit reached at step 1" in capsys.readouterr().out
    main(
        [
            "--stage",
            "base",
            "--output-dir",
            str(stopped),
            "--text-encoder",
            str(encoder_folder),
            "--device",
            "cpu",
            "--resume",
        ]
    )
    main(arguments(through, encoder_folder))
    (a, state, _), (b, _, _) = load_checkpoint(stopped), load_checkpoint(through)
    assert state["step"] == 3 and all(same(a[name], b[name]) for name in a)
    lines = [json.loads(line) for line in (stopped / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and all(line["loss"] > 0 for line in lines)
    stage = load_stage(stopped / "stage")
    assert (
        same(stage.net.state_dict(), a["ema"])
        and replace(stage.config, text_encoder=None) == PRESETS["tiny"]["base"]
    )
    assert stage.config.text_encoder == encoder.weights_digest()


def test_the_script_resumes_from_the_checkpoint_before_a_damaged_one_and_says_so(
    tmp_path, encoder_folder, capsys
):
    main(arguments(tmp_path, encoder_folder))
    # apart from the file
    whole = {name: value.clone() for name, value in load_checkpoint(tmp_path)[0]["weights"].items()}
    file = checkpoints(tmp_path)[-1] / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    main(arguments(tmp_path, encoder_folder, "--resume"))
    assert "passed over step_00000003: weights.safetensors" in capsys.readouterr().out
    assert same(load_checkpoint(tmp_path)[0]["weights"], whole)


def test_the_script_does_not_overwrite_a_run(tmp_path, encoder_folder):
    main(arguments(tmp_path, encoder_folder, steps=1))
    with pytest.raises(SystemExit, match="already holds a run: pass --resume"):
        main(arguments(tmp_path, encoder_folder))


def test_training_phases_differ_by_their_settings_and_are_passed_on(tmp_path, encoder_folder):
    def phases():
        with open(run / "stage" / "config.json") as file:
            return [
                (phase["steps"], phase["train"]["learning_rate"])
                for phase in json.load(file)["training"]["training_phases"]
            ]

    run = tmp_path / "first"
    main(arguments(run, encoder_folder, "--time-limit", "0"))
    main(arguments(run, encoder_folder, "--resume"))
    assert phases() == [(3, 3e-3)]  # one phase, though it was interrupted
    main(arguments(run, encoder_folder, "--resume", "learning_rate=0.0005", steps=5))
    assert phases() == [(3, 3e-3), (2, 5e-4)]
    initial, run = run / "stage", tmp_path / "second"
    main(arguments(run, encoder_folder, "--init-from", str(initial), steps=1))
    assert phases() == [(3, 3e-3), (2, 5e-4), (1, 3e-3)]


def test_the_script_can_start_from_the_weights_of_a_stage(tmp_path, encoder_folder):
    main(arguments(tmp_path / "first", encoder_folder, steps=2))
    main(
        arguments(
            tmp_path / "second",
            encoder_folder,
            "--init-from",
            str(tmp_path / "first" / "stage"),
            "learning_rate=0.0",
            steps=1,
        )
    )
    first, second = (
        load_stage(tmp_path / name / "stage").net.state_dict() for name in ("first", "second")
    )
    assert same(first, second)


def test_the_script_generates_a_sample_grid(tmp_path, encoder_folder):
    main(arguments(tmp_path, encoder_folder, "sample_every=1", steps=1))
    assert list(tmp_path.rglob("*.png"))


def test_a_text_cache_changes_no_bit_of_a_training_and_spares_the_next_one_the_encoder(
    tmp_path, encoder_folder, monkeypatch
):
    main(arguments(tmp_path / "plain", encoder_folder))
    main(arguments(tmp_path / "first", encoder_folder, "--text-cache", str(tmp_path / "cache")))
    monkeypatch.setattr(TextEncoder, "forward", None)
    main(arguments(tmp_path / "second", encoder_folder, "--text-cache", str(tmp_path / "cache")))
    plain, first, second = (
        load_checkpoint(tmp_path / name)[0]["weights"] for name in ("plain", "first", "second")
    )
    assert same(plain, first) and same(first, second)


@pytest.mark.slow
def test_the_network_is_compiled_if_asked_and_trains_to_the_same_weights(
    tmp_path, encoder_folder, monkeypatch
):
    compiled, compile = [], torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda model, **options: compiled.append(model) or compile(model, backend="eager"),
    )
    main(arguments(tmp_path / "eager", encoder_folder, steps=2))
    assert not compiled
    main(arguments(tmp_path / "compiled", encoder_folder, "--compile", steps=2))
    assert len(compiled) == 1
    eager, traced = (
        load_checkpoint(tmp_path / name)[0]["weights"] for name in ("eager", "compiled")
    )
    assert set(eager) == set(traced) and all(
        torch.allclose(eager[k], traced[k], atol=1e-5) for k in eager
    )


def test_a_stage_that_a_preset_lacks_is_an_error_that_names_what_it_has():
    with pytest.raises(
        SystemExit, match="the preset tiny has no stage sr_1024; it has base, sr_256"
    ):
        main(["--stage", "sr_1024", "--preset", "tiny"])


def with_former_names(value):
    """What the versions before wrote."""
    former = {new: old for old, new in (RENAMED | RENAMED_FIELDS).items()}
    if isinstance(value, dict):
        return {former.get(k, k): with_former_names(v) for k, v in value.items()}
    return [with_former_names(v) for v in value] if isinstance(value, list) else value


def test_a_checkpoint_with_former_names_resumes_in_the_same_phase(tmp_path):
    """Its settings, its phases, the description of its data, its log and what it carries."""
    folder = write_folder(
        tmp_path / "images", [(f"{i}.png", png(40 * i), f"grey {i}") for i in range(6)]
    )
    options = ["--stage", "base", "--preset", "tiny", "--device", "cpu", "sample_every=0"]
    options += ["--data", str(tmp_path / "images"), "batch_size=4", "log_every=2", "steps=4"]
    assert folder == 6
    main([*options, "--output-dir", str(tmp_path / "through")])
    main([*options, "--output-dir", str(tmp_path / "run"), "--time-limit", "0"])
    _, state, _ = load_checkpoint(tmp_path / "run")
    (checkpoint,) = checkpoints(tmp_path / "run")
    former = json.dumps(with_former_names(state))
    assert all(f'"{name}"' in former for name in ("legs", "level_losses", "pictures", "workers"))
    (checkpoint / "state.json").write_text(former)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    digest = hashlib.sha256(former.encode()).hexdigest()
    manifest["state.json"] = {"size": len(former.encode()), "sha256": digest}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    main(["--resume", *options[:7], "--output-dir", str(tmp_path / "run")])
    one, other = (load_checkpoint(tmp_path / name)[1] for name in ("through", "run"))
    assert other["step"] == 4 and len(other["training_phases"]) == 1
    times = {"seconds", *TIMES}
    for name in ("step", "train", "stage", "data", "carried"):
        assert one[name] == other[name]
    logs = [
        [{k: v for k, v in line.items() if k not in times} for line in read_log(tmp_path / name)]
        for name in ("through", "run")
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 2


def png(brightness):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (brightness,) * 3).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 100])
def test_a_rate_of_one_cycle_has_any_number_of_steps(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    schedule, rates = one_cycle(optimizer, 0.1, steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < steps else None
    assert all(0 < rate <= 0.1 for rate in rates)
    if steps > 10:
        assert max(rates) == pytest.approx(0.1, rel=0.1) and rates[-1] < 1e-3
