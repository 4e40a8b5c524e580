"""The costs of a U-Net's parts add up to the total, of networks that exist and of networks that do
not.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from imagen_mini.cascade.config import PRESETS
from imagen_mini.evaluation.unet_costs import (
    COST_KINDS,
    activation_count,
    count_costs,
    forward_stages,
    forward_zeros,
    layer_flops,
    sum_costs,
    unet_ablations,
)
from imagen_mini.models.layers import ResBlock
from imagen_mini.models.unet import UNet

BASE, SR = (PRESETS["mini"][name].unet for name in ("base", "sr_256"))


@pytest.mark.parametrize(
    "config", [BASE, SR, PRESETS["tiny"]["base"].unet], ids=["base", "sr_256", "tiny"]
)
def test_the_parts_hold_all_parameters_and_all_flops(config):
    net, parts = UNet(config), count_costs(config)
    assert sum_costs(parts, "parameters") == sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter:
        forward_zeros(net)
    assert sum_costs(parts, "flops") == counter.get_total_flops()
    assert {part.kind for part in parts} <= set(COST_KINDS) and len(
        {part.name for part in parts}
    ) == len(parts)
    assert sum(sum_costs(parts, "flops", kind) for kind in COST_KINDS) == sum_costs(parts, "flops")


def test_grids_are_those_that_the_layers_see():
    net, seen = UNet(BASE), {}
    hooks = [
        m.register_forward_hook(
            lambda m, i, out, name=name: seen.update({name: (i[0].shape[-1], out.shape[-1])})
        )
        for name, m in net.named_modules()
        if isinstance(m, ResBlock) or name.startswith(("downsample.", "upsample."))
    ]
    forward_zeros(net)
    for hook in hooks:
        hook.remove()
    for part in count_costs(BASE):
        if part.kind == "residual blocks":
            assert seen[part.name] == (part.grid, part.grid)
        elif part.kind == "changing the grid":
            # a convolution works where its values are: the smaller of the two grids
            assert min(seen[part.name]) == part.grid


def test_forward_stages_are_passed_in_their_order():
    net, order = UNet(SR), []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in forward_stages(net)
    ]
    forward_zeros(net)
    for hook in hooks:
        hook.remove()
    assert (
        order == [name for name, _ in forward_stages(net)]
        and "middle" in order
        and order[-1] == "out"
    )


def test_a_network_of_any_size_is_counted_without_allocating_it():
    parts = count_costs(PRESETS["paper"]["sr_1024"].unet)
    assert sum_costs(parts, "flops") > 5e12 and sum_costs(parts, "parameters") > 4e8


def test_convolutions_cost_as_many_products_as_they_have_weights_and_places():
    block = layer_flops("residual block", 16)
    assert block == 2 * (2 * 9 * 128 * 128 * 16 * 16 + 256 * 256)
    assert (
        layer_flops("self", 64) / layer_flops("self", 32)
        > 8
        > layer_flops("cross", 64) / layer_flops("cross", 32)
    )


def test_counting_does_not_depend_on_whether_gradients_are_wanted():
    with torch.no_grad():
        assert count_costs(BASE) == count_costs(BASE) and layer_flops("cross", 8) > 0
        without = count_costs(BASE), layer_flops("cross", 8)
    assert without == (count_costs(BASE), layer_flops("cross", 8))


@pytest.mark.slow
def test_what_makes_the_efficient_unet_cheap():
    variants = {
        name: (
            sum_costs(count_costs(config), "flops"),
            sum_costs(count_costs(config), "parameters"),
            activation_count(config),
        )
        for name, config in unet_ablations(SR).items()
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
    forward_zeros(net)
    assert sum(given) == activation_count(BASE)
