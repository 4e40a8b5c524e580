"""How the functions of assignment 2 are called, one function for each question.

It runs in the box with the submitted function, and with the reference to find what is expected. It
holds no answers. Modules get their weights here, from a seed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from imagen_mini.editing import alignment
from imagen_mini.models import attention, layers, unet
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import TextEmbeddings, Tokens


def weighted(module: nn.Module, case: dict, like: Tensor) -> nn.Module:
    """The module with weights that follow from the case's seed, in the precision of `like`."""
    source = torch.Generator().manual_seed(case["seed"])
    with torch.no_grad():
        for name, p in module.named_parameters():
            value = torch.randn(p.shape, generator=source, dtype=torch.float64)
            if p.ndim > 1:
                value = value / math.sqrt(p[0].numel())
            elif name.endswith("weight"):
                value = 1 + 0.3 * value
            else:
                value = 0.3 * value
            p.copy_(value)
    return module.to(like.dtype).requires_grad_(False)


class WeighedKeys(AttentionControl):
    """Changes q, k and v, and gives the keys other weights, words and pixels apart."""

    def modify_qkv(self, site, q, k, v):
        return 1.2 * q, k + 0.1, v - 0.2

    def needs_probs(self, site) -> bool:
        return True

    def modify_probs(self, site, probs, n_text):
        weights = torch.linspace(0.5, 1.5, probs.shape[-1], dtype=probs.dtype)
        weights[:n_text] += 1
        return probs * weights


def text_of(case: dict) -> TextEmbeddings:
    """The text of a case."""
    return TextEmbeddings(case["emb"], case["mask"])


def call_attention_probs(case: dict):
    probs = attention.attention_probs(case["q"], case["k"], case.get("mask"))
    if "mask" in case:
        hidden = probs.masked_select(~case["mask"].expand_as(probs))
        return probs, (hidden == 0).double()
    return probs


def make_attention(case: dict, like: Tensor) -> attention.Attention:
    """The attention layer of a case."""
    site = AttentionSite("up0.block", "up", case["kind"], case["size"])
    layer = attention.Attention(site, case["channels"], case.get("width", 8), head_dim=16)
    return weighted(layer, case, like)


def call_keys_and_values(case: dict):
    layer = make_attention(case, case["pixels"])
    text = text_of(case) if "emb" in case else None
    if "kv" in case:
        pooled = torch.zeros(len(case["emb"]), 4)
        kv = {"up0.block": case["kv"]}
        text = attention.TextContext(case["emb"], case["mask"], pooled, kv)
    k, v, mask, n_text = layer.keys_and_values(case["pixels"], text)
    if case["kind"] == "self":
        return k, v, mask is None, n_text
    return k, v, mask, n_text


def call_attention_layer(case: dict):
    layer = make_attention(case, case["x"])
    text = text_of(case) if "emb" in case else None
    return layer(case["x"], text, control=WeighedKeys() if case.get("control") else None)


def call_res_block(case: dict):
    block = layers.ResBlock(
        case["x"].shape[1], case["channels"], case["emb"].shape[1], case.get("skip_scale", 1.0)
    )
    return weighted(block, case, case["x"])(case["x"], case["emb"])


def call_pooled_text(case: dict):
    pooling = layers.AttentionPooling(case["emb"].shape[-1], case["width"])
    return weighted(pooling, case, case["emb"])(text_of(case))


def make_unet(case: dict, like: Tensor) -> unet.UNet:
    """The U-Net of a case."""
    config = unet.UNetConfig(
        image_size=case["x_t"].shape[-1],
        low_res_size=case["low_res"].shape[-1] if "low_res" in case else None,
        channels=tuple(case["channels"]),
        blocks=(1,) * len(case["channels"]),
        attention=tuple(case["attention"]),
        head_dim=16,
        emb_dim=16,
        text_width=case["emb"].shape[-1],
        text_layers=1,
        skip=case["skip"],
    )
    return weighted(unet.UNet(config), case, like)


def call_unet_forward(case: dict):
    net = make_unet(case, case["x_t"])
    text = text_of(case)
    if case.get("prepared"):
        text = net.prepare_text(text)
    options = {k: case[k] for k in ("low_res", "aug_level", "use_pooled") if k in case}
    control = WeighedKeys() if case.get("control") else None
    return net(case["x_t"], case["log_snr"], text, control=control, **options)


def call_token_positions(case: dict):
    tokens = Tokens(
        tuple(range(len(case["pieces"]))),
        tuple(case["pieces"]),
        tuple(case["word_ids"]),
        tuple(case["words"]),
    )
    return torch.tensor(list(alignment.token_positions(tokens, case["word"])))
