"""The same on a GPU as on the CPU: images, losses, updates, samples, edits. `python -m pytest -m
gpu`.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.preview import preview
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import training_scene
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.batches import draw_noise, draw_step_variables
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import train
from imagen_mini.training.optimizers import make_optimizers
from imagen_mini.utils.precision import resolve_precision
from imagen_mini.weights import WEIGHTS

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
CAPTIONS = [
    "a red circle above a blue square",
    "three green stars",
    "a small yellow ring left of a large purple cross on a black background",
]


@pytest.fixture(scope="module", autouse=True)
def exact():
    """No TF32, so that a GPU's float32 is float32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def gpu_encoder():
    return TextEncoder.from_pretrained(WEIGHTS / "text_encoder").to(GPU)


@pytest.mark.parametrize("size", [64, 256])
def test_a_gpu_generates_the_same_scenes(size):
    scenes = [training_scene(1, i) for i in range(24)]
    assert torch.allclose(render(scenes, size, GPU).cpu(), render(scenes, size), atol=2e-5)


def test_text_is_encoded_the_same(encoder, gpu_encoder):
    here, there = encoder(CAPTIONS), gpu_encoder(CAPTIONS)
    assert torch.equal(here.mask, there.mask.cpu()) and torch.allclose(
        here.emb, there.emb.cpu(), atol=1e-4
    )


@pytest.mark.parametrize("stage", ["base", "sr_256"])
def test_loss_gradient_and_update_are_the_same(stage, encoder, gpu_encoder, randomize_zero_init):
    config = TrainConfig(batch_size=4, learning_rate=1e-3)
    losses, nets = [], []
    for device, encode in ((torch.device("cpu"), encoder), (GPU, gpu_encoder)):
        torch.manual_seed(0)
        run, unet = (
            randomize_zero_init(DiffusionStage(PRESETS["tiny"][stage])).to(device),
            PRESETS["tiny"][stage].unet,
        )
        batch = SceneDataset().batch(range(4), unet.image_size, unet.low_res_size)
        random = {
            k: v.to(device) for k, v in draw_step_variables(config, run, 0).items() if k != "drop"
        }
        # a CPU's, for both
        noise = {k: v.to(device) for k, v in draw_noise(config, run, range(4), batch).items()}
        low = None if batch.low_res is None else batch.low_res.to(device)
        loss = run.loss(
            batch.images.to(device), encode(batch.captions), low_res=low, **random, **noise
        )
        loss.sum().backward()
        losses.append(loss.detach().cpu())
        nets.append(run.net)
    assert torch.allclose(*losses, rtol=1e-3)
    for here, there in zip(*(net.parameters() for net in nets)):
        assert (here.grad - there.grad.cpu()).norm() <= 2e-3 * here.grad.norm() + 1e-6
        there.grad = here.grad.to(GPU)
    for net in nets:
        for optimizer in make_optimizers(net, "muon", 1e-3, (0.9, 0.99), 0.01).values():
            optimizer.step()
    for here, there in zip(*(net.parameters() for net in nets)):
        # of updates of about 1e-3, orthogonalized in bf16
        assert torch.allclose(here, there.cpu(), atol=2e-4)


def test_a_sample_has_the_same_noise_in_any_batch_on_a_gpu():
    stage, config, batch = (
        DiffusionStage(PRESETS["tiny"]["base"]),
        TrainConfig(),
        SceneDataset().batch(range(20), 64, device=GPU),
    )
    together = draw_noise(config, stage, range(20), batch)["eps"]
    assert together.device.type == GPU.type and torch.equal(
        together[5:17], draw_noise(config, stage, range(5, 17), batch)["eps"]
    )
    assert (
        abs(together.mean()) < 0.01
        and abs(together.std() - 1) < 0.01
        and not torch.equal(together[0], together[8])
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loop_trains_on_a_gpu(workers, gpu_encoder):
    config = TrainConfig(
        steps=40,
        batch_size=32,
        learning_rate=3e-3,
        warmup=5,
        equivalent_prob=0.3,
        contradiction_prob=0.2,
        num_workers=workers,
        loss_weight="balanced",
        loss_cap=60.0,
    )
    torch.manual_seed(0)
    stage = DiffusionStage(PRESETS["tiny"]["base"]).to(GPU)
    ema = EMA(stage.net, config.ema_half_life)
    optimizers = make_optimizers(
        stage.net, "muon", config.learning_rate, config.betas, config.weight_decay
    )
    losses = [state.loss for state in train(stage, gpu_encoder, config, optimizers, ema)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    assert (
        not torch.equal(stage.net.out.weight, ema.weights["out.weight"])
        and ema.weights["out.weight"].any()
    )


@pytest.mark.parametrize(
    "name, precision", [("base", "fp32"), ("sr_256", "fp32"), ("base", "bf16")]
)
def test_a_recorded_step_is_the_same_step(name, precision, gpu_encoder, randomize_zero_init):
    """Losses, gradient norms and weights of eight steps, with captions of differing lengths and
    different samples in each.
    """
    found = []
    for graph in (False, True):
        config = TrainConfig(
            steps=8,
            batch_size=8,
            learning_rate=1e-3,
            warmup=2,
            equivalent_prob=0.5,
            precision=precision,
        )
        torch.manual_seed(0)
        stage = randomize_zero_init(DiffusionStage(PRESETS["tiny"][name])).to(GPU)
        ema = EMA(stage.net, config.ema_half_life)
        optimizers = make_optimizers(
            stage.net, "muon", config.learning_rate, config.betas, config.weight_decay
        )
        states = list(train(stage, gpu_encoder, config, optimizers, ema, cuda_graph=graph))
        found.append((states, [p.detach().clone() for p in stage.parameters()]))
    (plain, weights), (recorded, same) = found
    few = 1e-3 if precision == "fp32" else 2e-2
    assert [s.loss for s in recorded] == pytest.approx([s.loss for s in plain], rel=few)
    assert [s.gradient_norm for s in recorded] == pytest.approx(
        [s.gradient_norm for s in plain], rel=10 * few
    )
    assert len({s.loss for s in recorded}) == 8
    assert sum((a - b).square().sum() for a, b in zip(weights, same)) < few * sum(
        a.square().sum() for a in weights
    )


def test_bf16_is_found_to_be_faster():
    assert resolve_precision("auto", GPU) == "bf16"


def test_the_shipped_cascade_generates_the_same_images(gpu_encoder):
    options = {"seed": 3, "stages": ["base"], "output_type": "pt", "progress": False}
    here = torch.stack(ImagenPipeline.from_pretrained(WEIGHTS)(CAPTIONS, **options).images)
    there = torch.stack(
        ImagenPipeline.from_pretrained(WEIGHTS).to(GPU)(CAPTIONS, **options).images
    ).cpu()
    assert (here - there).abs().mean() < 0.01 and [r.scene for r in parse_image(here)] == [
        r.scene for r in parse_image(there)
    ]


def test_an_edit_changes_what_it_should_on_a_gpu():
    pipe = ImagenPipeline.from_pretrained(WEIGHTS).to(GPU)
    prompts, options = (
        ["a red circle above a blue square", "a green circle above a blue square"],
        {"seed": 2, "progress": False, "output_type": "pt"},
    )
    images = pipe(prompts, edit=Replace(), stages=["base"], **options).images
    source, target = (r.scene for r in parse_image(torch.stack(images).cpu()))
    assert {(o.color, o.shape) for o in target.objects} == {("green", "circle"), ("blue", "square")}
    assert all(
        abs(a.x - b.x) <= 3 and abs(a.y - b.y) <= 3 for a, b in zip(source.objects, target.objects)
    )
    # the source is as without an edit
    assert torch.allclose(
        images[0], pipe(prompts[0], stages=["base"], **options).images[0], atol=1e-3
    )


def test_a_new_stage_is_judged_on_a_gpu(gpu_encoder):
    torch.manual_seed(0)
    results = preview(
        DiffusionStage(replace(PRESETS["tiny"]["base"], num_inference_steps=2)).to(GPU).eval(),
        gpu_encoder,
    )
    assert len(results) and not all(r.correct for r in results)
