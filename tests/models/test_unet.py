"""The U-Net, for both stages, small."""

from dataclasses import replace

import pytest
import torch

from imagen_mini.models.attention import Attention
from imagen_mini.models.control import AttentionControl, AttentionSite, BlockSite
from imagen_mini.models.layers import TextRefinerBlock, layer_norm, positional_encoding_2d
from imagen_mini.models.unet import UNet, UNetConfig
from imagen_mini.text.encoder import concatenate

BASE = UNetConfig(
    image_size=16,
    patch=2,
    channels=(32, 64),
    blocks=(1, 2),
    attention=("cross", "self+cross"),
    emb_dim=32,
    text_width=32,
)
SR = replace(BASE, image_size=32, low_res_size=16, patch=4, skip="sum", skip_scale=0.5**0.5)
EACH = replace(BASE, mid_blocks=3, attention_every_block=True)
CONFIGS = pytest.mark.parametrize(
    "config",
    [BASE, SR, replace(BASE, attention=("", "hybrid")), EACH],
    ids=["base", "sr", "hybrid", "attention after each block"],
)


@pytest.fixture
def text(random_text):
    return random_text([4, 2], width=32)


def inputs_for(config, text):
    """Everything that a U-Net of this configuration takes, for two images."""
    g = torch.Generator().manual_seed(0)
    out = {
        "x_t": torch.randn(2, 3, config.image_size, config.image_size, generator=g),
        "log_snr": torch.tensor([-1.0, 2.0]),
        "text": text,
    }
    if config.low_res_size is not None:
        out["low_res"] = torch.randn(2, 3, config.low_res_size, config.low_res_size, generator=g)
        out["aug_level"] = torch.tensor([0.1, 0.4])
    return out


@pytest.fixture
def net_of(randomize_zero_init):
    def net_of(config):
        torch.manual_seed(0)
        return randomize_zero_init(UNet(config))

    return net_of


@CONFIGS
def test_what_comes_out_has_the_shape_of_what_went_in(config, net_of, text):
    inputs = inputs_for(config, text)
    assert net_of(config)(**inputs).shape == inputs["x_t"].shape


def test_an_untrained_network_predicts_zero(text):
    assert not UNet(BASE)(**inputs_for(BASE, text)).any()


@CONFIGS
def test_every_parameter_gets_a_gradient(config, net_of, text):
    net = net_of(config)
    net(**inputs_for(config, text)).square().sum().backward()
    without = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert not without


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_frozen_parts_leave_the_gradients_of_the_others_as_they_were(precision, net_of, text):
    net = net_of(BASE).to(memory_format=torch.channels_last)

    def gradients(frozen: str) -> dict[str, torch.Tensor]:
        for name, p in net.named_parameters():
            p.requires_grad_(not name.startswith(frozen))
        net.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            out = net(**inputs_for(BASE, text))
        out.float().square().sum().backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    everything = gradients("nothing")
    # of the stem, torch's GroupNorm alone would end the process
    for frozen in ("stem", "down", "text_layers", "mid", "up"):
        others = gradients(frozen)
        assert set(others) == {name for name in everything if not name.startswith(frozen)}
        for name, gradient in others.items():
            assert torch.allclose(
                gradient,
                everything[name],
                rtol=0.02,
                atol=0.02 * float(everything[name].abs().max()),
            ), (frozen, name)


@CONFIGS
def test_the_output_depends_on_everything_that_goes_in(config, net_of, text, random_text):
    net, inputs = net_of(config), inputs_for(config, text)
    before = net(**inputs)
    for name, value in inputs.items():
        other = random_text([4, 2], width=32, seed=9) if name == "text" else value + 0.3
        assert (net(**inputs | {name: other}) - before).abs().max() > 1e-4, name


@CONFIGS
def test_an_image_depends_on_nothing_else_in_the_batch(config, net_of, text):
    net, inputs = net_of(config), inputs_for(config, text)
    together = net(**inputs)
    for i in range(2):
        alone = net(**{name: value[i : i + 1] for name, value in inputs.items()})
        assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-4)


@CONFIGS
def test_prepared_text_has_the_same_result_as_text(config, net_of, text):
    net, inputs = net_of(config), inputs_for(config, text)
    context = net.prepare_text(text)
    assert torch.equal(net(**inputs | {"text": context}), net(**inputs))
    assert {name for name in context.kv} == {
        site.name for site in net.sites if site.kind != "self"
    } and context.pooled.shape == (2, config.emb_dim)


@CONFIGS
def test_padding_of_the_text_does_not_change_the_output(config, net_of, text, random_text):
    net, inputs = net_of(config), inputs_for(config, text)
    padded = concatenate([text, random_text([11], width=32)])[:2]
    assert padded.emb.shape[1] == 11
    assert torch.allclose(net(**inputs | {"text": padded}), net(**inputs), rtol=0, atol=1e-4)


@CONFIGS
def test_attention_sites_have_unique_names_and_say_where_they_stand(config, net_of):
    sites = net_of(config).sites
    rounds = (
        [*config.blocks * 2, config.mid_blocks]
        if config.attention_every_block
        else [1] * (2 * len(config.blocks) + 1)
    )
    kinds = [
        len([k for k in level.split("+") if k])
        for level in (*config.attention * 2, config.attention[-1])
    ]
    assert len(sites) == len({s.name for s in sites}) == sum(n * k for n, k in zip(rounds, kinds))
    for site in sites:
        assert site.name.startswith(site.place_in_unet) and site.name.endswith(site.kind)
        place = site.place_in_unet
        assert site.size == config.grids[-1 if place == "mid" else int(site.name[len(place)])]


def test_attention_after_each_block_comes_before_the_next_block(net_of, text):
    net, order = net_of(EACH), []
    for name, module in net.mid.named_modules():
        if name.rpartition(".")[0] in ("blocks", "attention", *(f"between.{i}" for i in range(2))):
            module.register_forward_hook(lambda m, i, out, name=name: order.append(name))
    net(**inputs_for(EACH, text))
    assert order == [
        "blocks.0",
        "between.0.0",
        "between.0.1",
        "blocks.1",
        "between.1.0",
        "between.1.1",
        "blocks.2",
        "attention.0",
        "attention.1",
    ]


def test_a_control_reaches_every_site_once_in_the_order_of_the_sites(net_of, text):
    class Note(AttentionControl):
        def __init__(self):
            self.met = []

        def modify_qkv(self, site, q, k, v):
            assert q.shape[2] == site.size**2
            self.met.append(site.name)
            return q, k, v

    net, note = net_of(BASE), Note()
    net(**inputs_for(BASE, text), control=note)
    assert sorted(note.met) == sorted(s.name for s in net.sites)


# ---------------------------------------------------------------- features of residual blocks


class Features(AttentionControl):
    """Asks for the features after the named residual blocks (None: all), keeps them and changes
    nothing.
    """

    def __init__(self, names=None):
        self.names, self.seen = names, {}

    def needs_features(self, site):
        return self.names is None or site.name in self.names

    def modify_features(self, site, x):
        assert site.name not in self.seen  # once in a forward pass
        self.seen[site.name] = x
        return x


class PlugAndPlay(AttentionControl):
    """Row 0 is the source. The other rows take its features after some residual blocks, and its
    self-attention on some layers. Reference: Tumanyan et al. (2022), arXiv 2211.12572, Section 4.
    """

    def __init__(self, blocks, attention=()):
        self.blocks, self.attention = blocks, attention

    def needs_features(self, site):
        return site.name in self.blocks

    def modify_features(self, site, x):
        return x[:1].expand_as(x)

    def needs_probs(self, site):
        return site.name in self.attention

    def modify_probs(self, site, probs, n_text):
        return probs[:1].expand_as(probs)


@CONFIGS
def test_block_sites_have_unique_names_and_say_where_they_stand(config, net_of):
    sites = net_of(config).block_sites
    assert len(sites) == len({s.name for s in sites}) == 2 * sum(config.blocks) + config.mid_blocks
    for site in sites:
        place = site.place_in_unet
        assert site.name.startswith(place)
        assert site.size == config.grids[-1 if place == "mid" else int(site.name[len(place)])]


@CONFIGS
def test_a_control_sees_the_output_of_every_residual_block_once(config, net_of, text):
    net, control, outputs = net_of(config), Features(), {}
    for level in net.levels():
        for block, site in zip(level.blocks, level.block_sites):
            block.register_forward_hook(
                lambda m, i, out, name=site.name: outputs.update({name: out})
            )
    net(**inputs_for(config, text), control=control)
    assert set(control.seen) == {site.name for site in net.block_sites}
    for site in net.block_sites:
        assert control.seen[site.name] is outputs[site.name]
        assert control.seen[site.name].shape[-2:] == (site.size, site.size)


@CONFIGS
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_control_of_features_that_changes_nothing_changes_neither_values_nor_gradients(
    config, checkpointing, net_of, text
):
    net, inputs = net_of(config), inputs_for(config, text)

    def results(control):
        net.enable_gradient_checkpointing(checkpointing and control is not None)
        out = net(**inputs, control=control)
        return [out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))]

    class Same(AttentionControl):
        def needs_features(self, site):
            return True

    for got, expected in zip(results(Same()), results(None), strict=True):
        assert torch.equal(got, expected)


def test_a_control_that_asks_for_no_features_is_shown_none(net_of, text):
    class Refuse(AttentionControl):
        def modify_features(self, site, x):
            raise AssertionError(f"{site.name} was not asked for")

    net, inputs = net_of(BASE), inputs_for(BASE, text)
    assert torch.equal(net(**inputs, control=Refuse()), net(**inputs))
    chosen = Features(["up1.block0"])
    net(**inputs, control=chosen)
    assert set(chosen.seen) == {"up1.block0"}


def test_plug_and_play_gives_the_target_the_features_of_the_source(net_of, text):
    net, inputs = net_of(BASE).double(), inputs_for(BASE, text)
    inputs["text"] = text.to(torch.float64)
    inputs["x_t"] = inputs["x_t"].double()
    inputs["log_snr"] = torch.zeros(2, dtype=torch.float64)  # both are at the same step
    plain = net(**inputs)
    source = Features()
    net(**{name: value[:1] for name, value in inputs.items()}, control=source)

    injected = net(**inputs, control=PlugAndPlay(["up1.block0"]))
    assert torch.allclose(injected[0], plain[0], atol=1e-6)  # the source is left as it was
    assert (injected[1] - plain[1]).abs().max() > 1e-3  # the target is not

    # What comes after the block has the source's features in both rows, to the last bit.
    after = {}
    net.up[1].blocks[1].register_forward_hook(lambda m, i, out: after.update(x=i[0], out=out))
    net(**inputs, control=PlugAndPlay(["up1.block0"]))
    assert torch.equal(after["x"][0], after["x"][1])
    assert torch.allclose(after["x"][:1], source.seen["up1.block0"], atol=1e-5)


def test_plug_and_play_before_the_last_convolution_makes_the_target_equal_the_source(net_of, text):
    config = replace(BASE, attention=("", "self+cross"))  # nothing attends after the last block
    net, inputs = net_of(config), inputs_for(config, text)
    last = net.up[0].block_sites[-1]
    assert last == BlockSite("up0.block0", "up", 8)
    out = net(**inputs, control=PlugAndPlay([last.name]))
    assert torch.equal(out[0], out[1])
    assert torch.allclose(out[0], net(**inputs)[0], atol=1e-6)


def test_plug_and_play_injects_features_and_self_attention_together(net_of, text):
    net, inputs = net_of(BASE), inputs_for(BASE, text)
    outs = [
        net(**inputs, control=control)
        for control in (
            None,
            PlugAndPlay(["up1.block0"]),
            PlugAndPlay([], ["up1.self"]),
            PlugAndPlay(["up1.block0"], ["up1.self"]),
        )
    ]
    for i, a in enumerate(outs):
        assert torch.allclose(a[0], outs[0][0], atol=1e-5)
        for b in outs[:i]:
            assert (a[1] - b[1]).abs().max() > 1e-4


def test_gradients_flow_through_injected_features_where_parameters_are_frozen(net_of, text):
    net, inputs = net_of(BASE), inputs_for(BASE, text)
    net.requires_grad_(False)
    x_t = inputs["x_t"].clone().requires_grad_()
    control = PlugAndPlay(["mid.block0"])
    net(**inputs | {"x_t": x_t}, control=control)[1].sum().backward()
    # the target's output depends on the source's pixels, by its features, and on the target's own
    assert x_t.grad[0].abs().max() > 0 and x_t.grad[1].abs().max() > 0
    x_t.grad = None
    net(**inputs | {"x_t": x_t})[1].sum().backward()
    assert not x_t.grad[0].any()


# ---------------------------------------------------------------- what conditions


def test_the_pooled_text_can_be_left_out_for_single_images(net_of, text, random_text):
    # so that the text comes in by its pooled vector alone
    config = replace(BASE, attention=("", ""))
    net, inputs, other = (
        net_of(config),
        inputs_for(config, text),
        random_text([4, 2], width=32, seed=9),
    )
    outs = [net(**inputs | {"text": t}, use_pooled=torch.tensor([1.0, 0.0])) for t in (text, other)]
    assert (outs[0][0] - outs[1][0]).abs().max() > 1e-4
    assert torch.equal(outs[0][1], outs[1][1])
    assert torch.equal(net(**inputs, use_pooled=torch.ones(2)), net(**inputs))


def test_positions_differ_for_every_pixel_and_least_for_neighbours():
    where = positional_encoding_2d(8, 32)
    assert where.shape == (64, 32)
    distance = torch.cdist(where, where) + 9 * torch.eye(64)
    assert distance.min() > 0.3
    for i, nearest in enumerate(distance.argmin(1).tolist()):
        assert abs(i // 8 - nearest // 8) + abs(i % 8 - nearest % 8) == 1


def test_attention_to_words_can_follow_the_place_of_a_pixel(text):
    torch.manual_seed(0)
    layer = Attention(AttentionSite("a", "mid", "cross", 4), 32, 32)
    out = layer(torch.zeros(2, 32, 4, 4), text).flatten(2)
    # equal pixels, and yet no two get the same
    assert torch.cdist(out[0].T, out[0].T).add(9 * torch.eye(16)).min() > 1e-4


def test_a_text_layer_depends_on_the_order_of_words_and_ignores_padding(
    randomize_zero_init, random_text
):
    torch.manual_seed(0)
    layer, text = randomize_zero_init(TextRefinerBlock(32)), random_text([5], width=32)
    there, back = layer(text.emb, text.mask), layer(text.emb.flip(1), text.mask).flip(1)
    assert (there - back).abs().max() > 1e-3
    padded = random_text([5], width=32, n=9)
    assert torch.allclose(
        layer(padded.emb + 7 * ~padded.mask[..., None], padded.mask)[:, :5],
        layer(padded.emb[:, :5], padded.mask[:, :5]),
        atol=1e-5,
    )


# in hybrid attention the number of words counts
@pytest.mark.parametrize("config", [BASE, SR], ids=["base", "sr"])
def test_the_unconditional_prediction_is_the_same_whatever_the_prompt_was(
    config, net_of, random_text
):
    net, long, short = (
        net_of(config),
        random_text([12, 12], width=32),
        random_text([1, 3], width=32),
    )
    inputs = inputs_for(config, long)
    assert torch.allclose(
        net(**inputs | {"text": long.null()}),
        net(**inputs | {"text": short.null()}),
        rtol=0,
        atol=1e-5,
    )


def test_pure_noise_of_a_schedule_without_signal_at_its_end_gives_a_finite_prediction(net_of, text):
    inputs = inputs_for(BASE, text)
    assert net_of(BASE)(**inputs | {"log_snr": torch.tensor([-torch.inf, 2.0])}).isfinite().all()


@pytest.mark.parametrize("skip", ["concat", "sum"])
def test_both_kinds_of_skip_connection_carry_the_down_blocks_output(skip, net_of, text):
    config = replace(BASE, skip=skip)
    net, inputs = net_of(config), inputs_for(config, text)
    seen = {}
    net.down[0].register_forward_hook(lambda m, i, out: seen.update(down=out))
    net.up[0].register_forward_hook(lambda m, i, out: seen.update(up=i[0]))
    net.upsample[1].register_forward_hook(lambda m, i, out: seen.update(below=out))
    net(**inputs)
    down, below = seen["down"], seen["below"]
    expected = torch.cat([below, down], 1) if skip == "concat" else (below + down) / 2**0.5
    assert torch.allclose(seen["up"], expected)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "change, message",
    [
        ({"blocks": (1,)}, "one value a level; got 2, 1 and 2"),
        ({"image_size": 18}, "image_size 18 is no multiple of 4"),
        ({"channels": (32, 48)}, r"channels \[48\].*head_dim 32"),
        ({"attention": ("", "self+crossed")}, "'crossed'"),
        ({"attention": "self"}, "attention 'self'; expected one text for each level"),
        ({"attention": ("", "cross+cross")}, "'cross.cross'; expected each kind once"),
        ({"text_width": 48}, "text_width 48 is no multiple of head_dim 32"),
        ({"cross_attention_dim": 40}, "cross_attention_dim 40 is no multiple of head_dim 32"),
        ({"skip": "add"}, "'add'; expected 'concat' or 'sum'"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_an_error_that_names_the_value(change, message):
    with pytest.raises(ValueError, match=message):
        replace(BASE, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"patch": 0},
        {"head_dim": 0},
        {"channels": (), "blocks": (), "attention": ()},
        {"emb_dim": -1},
        {"image_size": 0},
        {"blocks": (1, 0)},
        {"text_width": 0},
        {"cross_attention_dim": 0},
        {"low_res_size": 0},
        {"mid_blocks": -1},
        {"text_layers": -1},
    ],
)
def test_a_size_that_is_no_positive_number_is_a_value_error(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(BASE, **change)


def test_an_image_of_another_size_is_an_error(text):
    with pytest.raises(ValueError, match=r"\[b, 3, 16, 16\]; got \[2, 3, 8, 8\]"):
        UNet(BASE)(torch.zeros(2, 3, 8, 8), torch.zeros(2), text)


@pytest.mark.parametrize("lengths, width", [([4, 2], 24), ([4], 32)])
def test_text_of_another_width_or_number_is_an_error(lengths, width, random_text):
    with pytest.raises(ValueError, match="expected text for 2 images of width 32"):
        UNet(BASE)(**inputs_for(BASE, random_text(lengths, width)))


@pytest.mark.parametrize("config", [BASE, SR], ids=["base", "sr"])
@pytest.mark.parametrize("given", [("low_res",), ("aug_level",), (), ("low_res", "aug_level")])
def test_low_res_and_aug_level_belong_together_and_to_super_resolution_only(config, given, text):
    inputs = {k: v for k, v in inputs_for(SR, text).items() if k in given} | {
        k: v for k, v in inputs_for(config, text).items() if k in ("x_t", "log_snr", "text")
    }
    if len(given) == (0 if config is BASE else 2):
        UNet(config)(**inputs)
    else:
        message = "for super-resolution only" if config is BASE else "both needed"
        with pytest.raises(ValueError, match=f"low_res and aug_level are {message}"):
            UNet(config)(**inputs)


def test_a_low_resolution_image_of_another_size_is_an_error(text):
    with pytest.raises(ValueError, match=r"enlarges images \[b, 3, 16, 16\]; got \[2, 3, 8, 8\]"):
        UNet(SR)(**inputs_for(SR, text) | {"low_res": torch.zeros(2, 3, 8, 8)})


def test_layer_norm_in_single_operations_is_torchs():
    x, weight = (
        torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True),
        torch.randn(16, dtype=torch.float64, requires_grad=True),
    )
    ours, theirs = (
        layer_norm(x, weight, 1e-5),
        torch.nn.functional.layer_norm(x, (16,), weight, None, 1e-5),
    )
    assert torch.allclose(ours, theirs, atol=1e-12)
    out = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * out).sum(), (x, weight)),
        torch.autograd.grad((theirs * out).sum(), (x, weight)),
    ):
        assert torch.allclose(a, b, atol=1e-10)
    half = layer_norm(x.detach().bfloat16(), weight.detach().float(), 1e-5)
    assert half.dtype == torch.bfloat16 and (half - theirs).abs().max() < 0.05
