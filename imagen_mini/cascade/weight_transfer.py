"""Start a network from a smaller trained one: what is added does nothing at first."""

from __future__ import annotations

from torch import nn

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.models.attention import Attention
from imagen_mini.models.layers import ResBlock, TextRefinerBlock


def init_from_smaller(stage: DiffusionStage, trained: DiffusionStage) -> list[str]:
    """Give `stage` the weights of a trained stage that has fewer layers, and is else the same.
    Gives the names of the layers that are new.

    New may be attention, text layers, and residual blocks at the end of a level or of the middle. A
    new layer adds nothing at first: what it adds to its input goes through a last projection, which
    is set to 0. So the network says what the trained one said, and learns from there; attention in
    it that could learn no more can again (`Attention.revive_dead_channels`). ValueError if the
    networks differ in more.
    """
    weights, own = trained.net.state_dict(), stage.net.state_dict()
    new = {
        name: last
        for name, layer in stage.net.named_modules()
        if (last := _what_it_adds(layer)) and not any(k.startswith(f"{name}.") for k in weights)
    }
    wrong = sorted(
        k
        for k in set(weights) | set(own)
        if not any(k.startswith(f"{name}.") for name in new)
        and (k not in own or k not in weights or own[k].shape != weights[k].shape)
    )
    if wrong:
        raise ValueError(
            f"the weights of the trained stage {trained.config.name} do not fit: {len(wrong)} "
            f"tensors differ, the first is {wrong[0]!r}. Only "
            "text layers can be added, residual blocks at the end of a level, "
            "and attention, after what a level has: 'cross' may become "
            "'cross+self'"
        )
    stage.net.load_state_dict(weights, strict=False)
    for last in new.values():
        for projection in last:
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
    for layer in stage.net.attention_layers:
        layer.revive_dead_channels()
    return list(new)


def _what_it_adds(layer: nn.Module) -> list[nn.Module]:
    """The projections through which a layer adds to its input; none for what does not, or not only,
    add.
    """
    match layer:
        case Attention():
            return [layer.out]
        case TextRefinerBlock():
            return [layer.out, layer.mlp[-1]]
        case ResBlock(skip_scale=1.0, shortcut=nn.Identity()):
            return [layer.conv2]
    return []
