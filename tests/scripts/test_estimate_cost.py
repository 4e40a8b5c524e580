"""What training would cost, computed on shapes: against the same network run for real."""

from dataclasses import replace

import pytest
import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.weights import WEIGHTS
from train import estimate_cost
from train.benchmark_throughput import flops_per_image
from train.estimate_cost import training_cost

TINY = PRESETS["tiny"]["base"].unet


@pytest.mark.parametrize("name", ["base", "sr_256"])
def test_flops_are_those_of_a_step_on_real_images(name):
    stage, encoder = (
        DiffusionStage(PRESETS["tiny"][name]),
        TextEncoder.from_pretrained(WEIGHTS / "text_encoder"),
    )
    unet = stage.config.unet
    of = training_cost(
        unet,
        text_length=encoder(
            SceneDataset().batch(range(2), unet.image_size, unet.low_res_size)[2]
        ).emb.shape[1],
    )
    assert of.parameters == sum(p.numel() for p in stage.parameters())
    assert of.flops == pytest.approx(flops_per_image(stage, encoder), rel=1e-6)


def test_four_times_the_pixels_are_four_times_the_activations_and_twice_the_channels_twice():
    # attention keeps more than its grid
    narrow = replace(PRESETS["mini"]["base"].unet, attention=("", "", ""), text_layers=0)
    once, large, wide = (
        training_cost(c).activations
        for c in (
            narrow,
            replace(narrow, image_size=128),
            replace(narrow, channels=tuple(2 * c for c in narrow.channels)),
        )
    )
    assert large / once == pytest.approx(4, rel=0.05)
    assert wide / once == pytest.approx(2, rel=0.05)


def test_checkpointing_keeps_less_and_the_network_may_be_of_any_size():
    of = training_cost(PRESETS["paper"]["sr_1024"].unet)
    assert of.checkpointed < of.activations / 3
    assert of.activations > 5e9  # of one image; nothing of it was allocated


def test_adafactor_keeps_as_much_as_torch_does():
    from imagen_mini.models.unet import UNet

    net = UNet(TINY)
    optimizer = torch.optim.Adafactor(net.parameters())
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    kept = sum(value.numel() for value in states) - sum(1 for _ in net.parameters())  # their steps
    assert training_cost(TINY).adafactor_means == kept


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_a_gpu_allocates(checkpointing):
    from imagen_mini.models.unet import UNet
    from imagen_mini.text.encoder import TextEmbeddings

    config = PRESETS["small"]["base"].unet
    net, of = UNet(config).cuda(), training_cost(config)
    net.enable_gradient_checkpointing(checkpointing)

    def peak(batch):
        torch.cuda.reset_peak_memory_stats()
        x, number = torch.zeros(batch, 3, 64, 64, device="cuda"), torch.zeros(batch, device="cuda")
        text = TextEmbeddings(
            torch.zeros(batch, 24, config.text_width, device="cuda"),
            torch.ones(batch, 24, dtype=torch.bool, device="cuda"),
        )
        with torch.autocast("cuda", torch.bfloat16):
            error = net(x, number, text, use_pooled=number)
        error.square().mean().backward()
        net.zero_grad(set_to_none=True)
        return torch.cuda.max_memory_allocated()

    peak(8)
    measured = (peak(24) - peak(8)) / 16
    # peaks hold some gradients too
    assert measured == pytest.approx(of.checkpointed if checkpointing else of.activations, rel=0.4)


def test_the_arithmetic_on_the_page_adds_up(capsys):
    estimate_cost.main(
        [
            "--preset",
            "tiny",
            "--gpus",
            "2",
            "--rate",
            "1e12",
            "--mfu",
            "0.5",
            "steps=1000",
            "batch_size=8",
            "optimizer=adamw",
            "gradient_accumulation_steps=2",
        ]
    )
    out = capsys.readouterr().out
    of = training_cost(TINY)
    assert f"{1000 * 8 * of.flops:.2e} FLOP" in out
    assert f"= {1000 * 8 * of.flops / 1e12 / 3600:,.1f} hours" in out
    assert "2 images at once" in out
    assert "spread by --shard" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--gpus", "64", "batch_size=32"], "32 cannot be split among 64 GPUs"),
        (["--gpus", "0"], "expected an integer of at least 1"),
        (["--gpus", "8", "--mfu", "1.5"], "--mfu: 1.5; expected a number from"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        estimate_cost.main(["--preset", "tiny", *arguments])
    assert message in str(error.value) + capsys.readouterr().err


@pytest.mark.slow
def test_the_tables_have_a_row_for_each_stage_and_each_variant(capsys, monkeypatch):
    monkeypatch.setattr(estimate_cost, "PRESETS", {"tiny": PRESETS["tiny"]})
    estimate_cost.main([])
    estimate_cost.main(["--preset", "tiny", "--growth"])
    out = capsys.readouterr().out.splitlines()
    assert sum("sr_256" in line for line in out) == 1
    assert sum(" GFLOP " not in line and " MB" in line for line in out) == 2 + 4 + 3 + 3 + 4


@pytest.mark.slow
def test_growth_is_measured_beside_what_is_computed(capsys):
    estimate_cost.main(["--preset", "tiny", "--growth", "--measure", "--device", "cpu"])
    head, *rows = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "ms an image" in line or " MB" in line
    ]
    assert "ms an image" in head and len(rows) == 4 + 3 + 3 + 4 + 4
    took, rate, computed = zip(
        *(
            (float(r.split()[-2]), float(r.split()[-1]), float(r.split(" M ")[1].split()[0]))
            for r in rows
        )
    )
    # larger images take longer; many at once take less time each
    assert took[3] > took[0] and took[14] > took[17]
    assert all(
        t * r == pytest.approx(1000 * c, rel=0.25, abs=40) for t, r, c in zip(took, rate, computed)
    )
