"""Start a network from a trained one that differs: smaller, without inpainting, of other text."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.models.attention import Attention
from imagen_mini.models.layers import ResBlock, TextRefinerBlock

Projection = nn.Linear | nn.Conv2d


def init_from_smaller(stage: DiffusionStage, trained: DiffusionStage) -> list[str]:
    """Give a stage the weights of a trained stage that has fewer layers and is otherwise the same.

    Attention, text layers, and residual blocks at the end of a level or of the middle may be new. A
    new layer adds its output to its input through a last projection, which is set to 0. So the
    grown network computes what the trained one computed, and training continues from there.
    Attention channels that could not learn any more can again
    (`Attention.revive_dead_channels`).

    Args:
        stage: The larger stage, whose weights are overwritten in place.
        trained: The smaller stage.

    Returns:
        The names of the layers that are new.

    Raises:
        ValueError: The two networks differ in more than added layers.

    Reference: Net2Net (Chen et al., 2016), arXiv 1511.05641, for growth that preserves the
        function.
    """
    weights, own_weights = trained.net.state_dict(), stage.net.state_dict()

    # 1. the new layers: those that only add something, and have no trained weights
    new = {
        name: projections
        for name, layer in stage.net.named_modules()
        if (projections := _last_projections(layer))
        and not any(key.startswith(f"{name}.") for key in weights)
    }

    # 2. everything else has to fit, tensor by tensor
    misfits = sorted(
        key
        for key in set(weights) | set(own_weights)
        if not any(key.startswith(f"{name}.") for name in new)
        and (
            key not in own_weights
            or key not in weights
            or own_weights[key].shape != weights[key].shape
        )
    )
    if misfits:
        raise ValueError(
            f"the weights of the trained stage {trained.config.name} do not fit: {len(misfits)} "
            f"tensors differ, the first is {misfits[0]!r}. Only text layers can be added, residual "
            "blocks at the end of a level, and attention, after what a level has: 'cross' may "
            "become 'cross+self'"
        )
    stage.net.load_state_dict(weights, strict=False)

    # 3. what is new adds nothing at first
    for projections in new.values():
        for projection in projections:
            nn.init.zeros_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    # 4. attention channels whose gains are both 0 have no gradient: give them one again
    for layer in stage.net.attention_layers:
        layer.revive_dead_channels()
    return list(new)


def _last_projections(layer: nn.Module) -> list[Projection]:
    """The projections through which a layer adds to its input.

    The list is empty for a layer that does more than add, or that adds nothing.
    """
    last: list[nn.Module] = []
    match layer:
        case Attention():
            last = [layer.out]
        case TextRefinerBlock():
            last = [layer.out, layer.mlp[-1]]
        case ResBlock(skip_scale=1.0, shortcut=nn.Identity()):
            last = [layer.conv2]
    return [projection for projection in last if isinstance(projection, Projection)]


def with_inpainting(trained: DiffusionStage) -> DiffusionStage:
    """A copy of a stage that also takes the known part of an image, to be fine-tuned.

    The weights of the added input channels are 0. So at first the copy computes what the trained
    stage computes, whatever is known.

    Args:
        trained: The stage; it is left alone.

    Raises:
        ValueError: It takes the known part already, or it is a super-resolution stage.

    Reference: GLIDE (Nichol et al., 2021), arXiv 2112.10741, Section 3, which starts from a trained
        network with added channels of weight 0.
    """
    config = trained.config
    if config.unet.inpainting or trained.is_super_resolution:
        raise ValueError(
            f"stage {config.name}: expected a base stage with inpainting=False; this one "
            + ("has it already" if config.unet.inpainting else "enlarges images")
        )
    stage = DiffusionStage(replace(config, unet=replace(config.unet, inpainting=True)))
    weights = dict(trained.net.state_dict())
    # the input channels of the noisy image come first
    stem = torch.zeros_like(stage.net.stem.weight)
    stem[:, : trained.net.stem.in_channels] = weights["stem.weight"]
    stage.net.load_state_dict(weights | {"stem.weight": stem})
    return stage.to(trained.net.out.weight).train(trained.training)


def with_new_text_conditioning(trained: DiffusionStage, width: int) -> DiffusionStage:
    """A copy of a stage that has all to learn about text, and nothing about images.

    Text layers, pooled text, and the keys and values of words begin anew. All that works on pixels,
    and the queries and outputs of cross-attention, are as trained.

    Args:
        trained: The stage; it is left alone.
        width: Of the embeddings of the text encoder that it will be trained with.

    Raises:
        ValueError: The stage has text layers whose heads do not divide this width.
    """
    unet = replace(trained.config.unet, text_width=width, cross_attention_dim=None)
    stage = DiffusionStage(replace(trained.config, text_encoder=None, unet=unet))
    weights = trained.net.state_dict()
    words = ("text_projection.", "text_layers.", "pooled_text.", ".text_norm.", ".text_to_kv.")
    kept = {key: weights[key] for key in weights if not any(part in key for part in words)}
    stage.net.load_state_dict(stage.net.state_dict() | kept)
    return stage.to(trained.net.out.weight).train(trained.training)


def with_text_projection(trained: DiffusionStage, projection: Tensor) -> DiffusionStage:
    """A copy of a stage for another text encoder, whose vectors a matrix maps to those of the one
    that the stage was trained with.

    All weights are as trained. How well the copy reads depends on the matrix alone.

    Args:
        trained: The stage; it is left alone.
        projection: [width of the words inside the network, width of the other encoder's vectors],
            of `imagen_mini.text.projection.fit_projection`.

    Raises:
        ValueError: The words inside the network have another width.
    """
    words, width = projection.shape
    if words != trained.config.unet.context_width:
        raise ValueError(
            f"projection: expected [{trained.config.unet.context_width}, width of the text "
            f"encoder], as the words inside the network are; got {list(projection.shape)}"
        )
    unet = replace(trained.config.unet, text_width=width, cross_attention_dim=words)
    stage = DiffusionStage(replace(trained.config, text_encoder=None, unet=unet))
    weights = trained.net.state_dict() | {"text_projection.weight": projection}
    stage.net.load_state_dict(weights)
    return stage.to(trained.net.out.weight).train(trained.training)
