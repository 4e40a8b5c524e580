"""Training on the world `studio`: the data set, a run that remembers its world, the pipeline."""

import pickle
from dataclasses import replace

import pytest
import torch

from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.serialization import load_stage, save_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.datasets import open_dataset
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.evaluation.preview import preview
from imagen_mini.evaluation.scoring import judge_image, judge_images
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.world import WORLDS
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import load_checkpoint, training_phases
from imagen_mini.training.config import TrainConfig
from imagen_mini.utils.configuration import from_dict, to_dict
from imagen_mini.weights import WEIGHTS
from tests.support.tiny_runs import train

STUDIO = WORLDS["studio"]


def test_the_data_set_gives_the_world_s_scenes_and_captions():
    data = open_dataset(seed=5, world="studio")
    assert data.describe() == {"source": "studio"} and data.has_parser
    indices = [3, 0, 40]
    batch = data.batch(indices, 256, 64)
    scenes = [STUDIO.training_scene(5, i, data.object_count_weights) for i in indices]
    captions = [STUDIO.training_caption(s, 5, i).text for s, i in zip(scenes, indices)]
    assert batch.captions == captions
    for images, size in ((batch.images, 256), (batch.low_res, 64)):
        torch.testing.assert_close(images, STUDIO.render(scenes, size), rtol=0, atol=0)
    assert SceneDataset(5).batch(indices, 64).captions != captions  # the default is `scenes`
    with pytest.raises(ValueError, match="'moon'; expected one of scenes, studio"):
        open_dataset(world="moon")


def test_a_plan_crosses_to_another_process():
    """As another process would send it: few bytes, and the same images."""
    data = SceneDataset(world="studio")
    plan = data.plan(range(4), 64, alternatives=True)
    sent = pickle.dumps(plan)
    assert len(sent) < 20_000
    batch, alternatives = pickle.loads(sent).materialize("cpu")
    expected, others = plan.materialize("cpu")
    assert torch.equal(batch.images, expected.images)
    assert all(torch.equal(a, b) for a, b in zip(alternatives, others))
    assert (alternatives.contradictions - batch.images).abs().mean() > 0.01


@pytest.mark.parametrize("world", WORLDS)
def test_super_resolution_has_no_contradictions_and_equivalents_in_texture_alone(world):
    data = SceneDataset(world=world)
    batch = data.batch(range(6), 256, 64)
    others = data.alternatives(range(6), 256, 64)
    assert torch.equal(others.contradictions, batch.images)
    assert (others.equivalents != batch.images).any()
    pooled = [torch.nn.functional.avg_pool2d(x, 4) for x in (others.equivalents, batch.images)]
    assert (pooled[0] - pooled[1]).abs().mean() < 0.02


def test_a_run_remembers_its_world(tmp_path):
    options = ("equivalent_prob=0.5", "sample_every=1", "stage.num_inference_steps=1")
    train(tmp_path, "--world", "studio", "steps=1", *options)
    _, saved, _ = load_checkpoint(tmp_path)
    assert saved["data"] == {"source": "studio"} and saved["stage"]["world"] == "studio"
    assert load_stage(tmp_path / "stage").config.world == "studio"
    assert len(list(tmp_path.glob("samples_*.png"))) == 1  # images, and no score
    with pytest.raises(SystemExit, match="a run on the world studio, not on scenes"):
        train(tmp_path, "--resume", "--world", "scenes", "steps=2")
    train(tmp_path, "--resume", "steps=2", "sample_every=0")
    phases = training_phases(tmp_path / "stage")
    assert [phase["data"] for phase in phases] == [{"source": "studio"}] * len(phases)


def test_a_shipped_stage_is_a_start_by_name(tmp_path):
    options = ("--world", "studio", "--init-from", "scenes", "steps=1", "learning_rate=1e-30")
    train(tmp_path, *options)
    stage, shipped = load_stage(tmp_path / "stage"), load_stage(WEIGHTS / "base")
    own = TextEncoder.from_pretrained(WEIGHTS / "text_encoder")
    assert own.is_read_as(shipped.config.text_encoder)
    assert stage.config == replace(
        shipped.config, world="studio", text_encoder=own.weights_digest()
    )
    weights, expected = stage.net.state_dict(), shipped.net.state_dict()
    for name in expected:
        if "_norm" not in name:  # of attention channels that are given a gradient again
            torch.testing.assert_close(weights[name], expected[name])


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.from_pretrained(WEIGHTS / "text_encoder")


def tiny(name, world):
    return DiffusionStage(replace(PRESETS["tiny"][name], world=world))


def test_a_stage_without_a_world_is_of_the_flat_one(tmp_path):
    values = to_dict(StageConfig())
    assert from_dict(StageConfig, {k: v for k, v in values.items() if k != "world"}).world == (
        "scenes"
    )
    assert load_stage(WEIGHTS / "base").config.world == "scenes"
    save_stage(tiny("base", "studio"), tmp_path)
    assert load_stage(tmp_path).config.world == "studio"
    with pytest.raises(ValueError, match="world 'moon'; expected one of scenes, studio"):
        replace(StageConfig(), world="moon")


def test_a_pipeline_knows_its_world(encoder, tmp_path):
    ImagenPipeline(encoder, [tiny("base", "studio")]).save_pretrained(tmp_path)
    pipe = ImagenPipeline.from_pretrained(tmp_path)
    assert pipe.world is STUDIO
    assert ImagenPipeline(encoder, [tiny("base", "scenes")]).world is WORLDS["scenes"]
    with pytest.raises(ValueError, match="different worlds, scenes, studio"):
        ImagenPipeline(encoder, [tiny("base", "studio"), tiny("sr_256", "scenes")])


def test_images_that_no_parser_reads_are_not_judged():
    image = STUDIO.render(STUDIO.training_scene(0, 0, (1,)), 64)
    world = replace(STUDIO, parser=None)
    assert judge_image("a red circle", image[0], world).startswith("not judged: images of the")
    assert judge_images(["a red circle"], image, world) == [None]
    # and by the world's grammar, if there is a parser
    readable = replace(STUDIO, parser=WORLDS["scenes"].parser)
    assert judge_image("a shiny circle on wood", image[0], readable).startswith("unreadable")
    assert "'shiny'" in judge_image("a shiny circle", image[0])


def test_a_preview_renders_and_reads_the_stage_s_world(encoder, monkeypatch):
    asked = []

    def parser(images):
        asked.append(images.shape)
        return WORLDS["scenes"].parse_image(images)

    monkeypatch.setitem(WORLDS, "studio", replace(STUDIO, parser=parser))
    stage = DiffusionStage(replace(PRESETS["tiny"]["base"], world="studio", num_inference_steps=1))
    results = preview(stage.eval(), encoder, n=1, categories=["binding"])
    assert len(results) == 1 and asked == [(1, 3, 64, 64)]


def test_the_loop_s_own_data_are_those_of_the_stage(encoder):
    from imagen_mini.training.ema import EMA
    from imagen_mini.training.loop import train as loop
    from imagen_mini.training.optimizers import make_optimizers

    losses = {}
    for world in WORLDS:
        torch.manual_seed(0)
        stage = tiny("base", world)
        config = TrainConfig(steps=1, batch_size=2, precision="fp32")
        optimizers = make_optimizers(stage.net, "adamw", 1e-3, (0.9, 0.99), 0.0)
        (state,) = loop(stage, encoder, config, optimizers, EMA(stage.net, 10))
        losses[world] = float(state.loss)
    assert losses["scenes"] != losses["studio"]
