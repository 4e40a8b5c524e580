"""Counting a U-Net by its parts: they must add up to the whole, of networks that exist and of
networks that do not.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from imagen_mini.cascade.config import PRESETS
from imagen_mini.models.layers import ResBlock
from imagen_mini.models.unet import UNet
from imagen_mini.viz.style import subplots
from imagen_mini.viz.unet import (
    COST_KINDS,
    WORDS,
    ablations,
    activation_count,
    costs,
    flops_of_layer,
    forward,
    forward_stages,
    plot_unet,
    total,
)

BASE, SR = (PRESETS["mini"][name].unet for name in ("base", "sr_256"))


@pytest.mark.parametrize(
    "config", [BASE, SR, PRESETS["tiny"]["base"].unet], ids=["base", "sr_256", "tiny"]
)
def test_the_parts_hold_all_parameters_and_all_flops(config):
    net, parts = UNet(config), costs(config)
    assert total(parts, "parameters") == sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter:
        forward(net)
    assert total(parts, "flops") == counter.get_total_flops()
    assert {part.kind for part in parts} <= set(COST_KINDS) and len(
        {part.name for part in parts}
    ) == len(parts)
    assert sum(total(parts, "flops", kind) for kind in COST_KINDS) == total(parts, "flops")


def test_grids_are_those_that_the_layers_see():
    net, seen = UNet(BASE), {}
    hooks = [
        m.register_forward_hook(
            lambda m, i, out, name=name: seen.update({name: (i[0].shape[-1], out.shape[-1])})
        )
        for name, m in net.named_modules()
        if isinstance(m, ResBlock) or name.startswith(("downsample.", "upsample."))
    ]
    forward(net)
    for hook in hooks:
        hook.remove()
    for part in costs(BASE):
        if part.kind == "residual blocks":
            assert seen[part.name] == (part.grid, part.grid)
        elif part.kind == "changing the grid":
            # a convolution works where its values are: the smaller of the two grids
            assert min(seen[part.name]) == part.grid


def test_stations_are_passed_in_their_order():
    net, order = UNet(SR), []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in forward_stages(net)
    ]
    forward(net)
    for hook in hooks:
        hook.remove()
    assert (
        order == [name for name, _ in forward_stages(net)]
        and "middle" in order
        and order[-1] == "out"
    )


def test_a_network_of_any_size_is_counted_without_allocating_it():
    parts = costs(PRESETS["paper"]["sr_1024"].unet)
    assert total(parts, "flops") > 5e12 and total(parts, "parameters") > 4e8


def test_convolutions_cost_as_many_products_as_they_have_weights_and_places():
    block = flops_of_layer("residual block", 16)
    assert block == 2 * (2 * 9 * 128 * 128 * 16 * 16 + 256 * 256)
    assert (
        flops_of_layer("self", 64) / flops_of_layer("self", 32)
        > 8
        > flops_of_layer("cross", 64) / flops_of_layer("cross", 32)
    )


def test_counting_does_not_depend_on_whether_gradients_are_wanted():
    with torch.no_grad():
        assert costs(BASE) == costs(BASE) and flops_of_layer("cross", 8) > 0
        without = costs(BASE), flops_of_layer("cross", 8)
    assert without == (costs(BASE), flops_of_layer("cross", 8))


def test_what_makes_the_efficient_unet_cheap():
    variants = {
        name: (
            total(costs(config), "flops"),
            total(costs(config), "parameters"),
            activation_count(config),
        )
        for name, config in ablations(SR).items()
    }
    whole = variants.pop("as it is")
    assert all(flops > whole[0] for flops, _, _ in variants.values())
    assert (
        variants["patches of half the side"][0] > 3.5 * whole[0]
        and variants["patches of half the side"][2] == 4 * whole[2]
    )
    assert (
        variants["most blocks on the finest grid"][1] < whole[1]
        and variants["most blocks on the finest grid"][2] > whole[2]
    )


def test_values_kept_are_those_that_the_blocks_give():
    net, given = UNet(BASE), []
    for module in net.modules():
        if isinstance(module, ResBlock):
            module.register_forward_hook(lambda m, i, out: given.append(out.numel()))
    forward(net)
    assert sum(given) == activation_count(BASE)


def test_the_generated_u_has_a_box_for_every_stack_and_shares_that_do_not_exceed_the_whole():
    sheet, (panel,) = subplots(["base"], "")
    plot_unet(panel, BASE, costs(BASE))
    texts = [t.get_text() for t in panel.texts]
    shares = [int(t.split("%")[0]) for t in texts if t.endswith("of FLOPs")]
    assert len(shares) == 2 * len(BASE.channels) + 1 and 60 < sum(shares) <= 103
    assert sum("ch\n" in t for t in texts) == len(shares)
    assert WORDS > 0 and torch.is_grad_enabled()
