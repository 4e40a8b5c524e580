"""What users of the field pass to the pipeline: images of any type, seeds, numbers, edits, threads.
Each is taken for what it is, or is a plain error.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.blending import LocalBlend
from imagen_mini.editing.plug_and_play import PlugAndPlay
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace, Reweight
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.utils.images import image_to_tensor, images_to_tensor, to_pil

BASE = {"stages": ("base",), "num_inference_steps": 2, "progress": False}
SR = {"num_inference_steps": 1, "progress": False}
PAIR = ["a red ring", "a red star"]


# ---------------------------------------------------------------- images


def pixels():
    """uint8 [64, 64, 3] with every value from 0 to 255 in each channel."""
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def forms(array):
    """One image in every form that is taken, by name."""
    chw = torch.from_numpy(array).permute(2, 0, 1)
    signed = chw / 127.5 - 1
    return {
        "PIL": Image.fromarray(array),
        "list of PIL": [Image.fromarray(array)],
        "array of uint8": array,
        "batch of uint8": array[None],
        "array of floats": array / 255,
        "array of float32": (array / 255).astype(np.float32),
        "tensor of uint8": chw,
        "tensor of floats": signed,
        "batch of tensors": signed[None],
        "list of tensors": [signed],
        "tensor of float64": signed.double(),
        "mirrored view": array[:, ::-1][:, ::-1],
    }


@pytest.mark.parametrize("form", forms(pixels()))
def test_an_image_of_any_type_is_the_same_image(form):
    expected = torch.from_numpy(pixels()).permute(2, 0, 1)[None] / 127.5 - 1
    found = images_to_tensor(forms(pixels())[form])
    assert found.dtype == torch.float32 and found.shape == (1, 3, 64, 64)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    assert found.min() == -1 and found.max() == 1


@pytest.mark.parametrize("option", ["low_res", "image"])
def test_the_pipeline_takes_all_of_them(tiny_pipe, option):
    options = SR if option == "low_res" else BASE
    expected, *found = [
        list(tiny_pipe("a ring", **{option: form}, **options).stages.values())[-1]
        for form in forms(pixels()).values()
    ]
    assert all(torch.allclose(one, expected, rtol=0, atol=1e-3) for one in found)


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_what_a_call_returns_may_be_passed_in_again(tiny_pipe, kind):
    prompts = ["a ring", "a star"]
    base = tiny_pipe(prompts, output_type=kind, **BASE)
    assert len(base.images) == 2
    signed = base.stages["base"]
    expected = tiny_pipe(prompts, low_res=signed, **SR).stages["sr_256"]
    again = tiny_pipe(prompts, low_res=base.images, **SR).stages["sr_256"]
    assert (again - expected).abs().mean() < (0.02 if kind == "pil" else 1e-5)


def test_arrays_and_tensors_are_stacked_as_in_diffusers(tiny_pipe):
    array, tensor = (tiny_pipe(PAIR, output_type=kind, **BASE).images for kind in ("np", "pt"))
    assert array.shape == (2, 64, 64, 3) and tensor.shape == (2, 3, 64, 64)
    assert array.min() >= 0 and -1 <= tensor.min() < 0


@pytest.mark.parametrize(
    "given, message",
    [
        (torch.full((3, 4, 4), 255.0), r"values from 255 to 255; expected \[-1, 1\] in a tensor"),
        (np.full((4, 4, 3), 255.0), r"values from 255 to 255; expected \[0, 1\] in an array"),
        (np.full((4, 4, 3), -0.5), r"values from -0.5 to -0.5; expected \[0, 1\] in an array"),
        (np.zeros((3, 4, 4)), r"\[3, 4, 4\]: expected \[h, w, 3\].*channels last"),
        (torch.zeros(4, 4, 3), r"\[4, 4, 3\]: expected \[3, h, w\].*channels first"),
        (np.zeros((4, 4)), r"\[4, 4\]: expected \[h, w, 3\]"),
        (np.zeros((4, 4, 4)), r"\[4, 4, 4\]: expected \[h, w, 3\]"),
        (torch.zeros(0, 3, 4, 4), r"\[0, 3, 4, 4\]: expected"),
        (np.full((4, 4, 3), np.nan), "not all values are finite"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 8, 8)], "images of different sizes"),
    ],
)
def test_values_and_shapes_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        images_to_tensor(given)


@pytest.mark.parametrize(
    "given",
    [
        torch.zeros(3, 4, 4, dtype=torch.int64),
        np.zeros((4, 4, 3), np.int32),
        np.zeros((4, 4, 3), bool),
        np.array([["a"] * 3] * 3)[None].transpose(1, 2, 0).repeat(3, 2),
        None,
        b"png",
    ],
)
def test_values_of_other_types_are_refused(given):
    with pytest.raises(TypeError, match="expected"):
        images_to_tensor(given)


def test_a_tensor_that_may_be_in_0_to_1_is_not_washed_out_in_silence(tiny_pipe):
    for option, options in (("low_res", SR), ("image", BASE)):
        bright = torch.rand(1, 3, 64, 64)
        with pytest.warns(UserWarning, match=f"{option}: .* pass 2 \\* {option} - 1") as caught:
            tiny_pipe("a ring", **{option: bright}, **options)
        assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_pipe("a ring", low_res=2 * bright - 1, **SR)
        tiny_pipe("a ring", low_res=bright[0].permute(1, 2, 0).numpy(), **SR)


def test_values_that_miss_their_range_by_rounding_are_taken():
    x = torch.tensor([-1.00001, 0.0, 1.00001]).expand(3, 3, 3)
    assert images_to_tensor(x).abs().max() == 1
    with pytest.raises(ValueError):
        images_to_tensor(x * 1.01)


def test_one_low_resolution_image_holds_for_all_prompts(tiny_pipe):
    image = images_to_tensor(pixels())
    one = tiny_pipe(PAIR, low_res=image, **SR).stages["sr_256"]
    both = tiny_pipe(PAIR, low_res=image.expand(2, -1, -1, -1), **SR).stages["sr_256"]
    assert torch.equal(one, both)


def test_a_low_resolution_pil_image_of_another_size_is_an_error_that_says_which(tiny_pipe):
    with pytest.raises(ValueError, match=r"low_res \[1, 3, 50, 80\].*one of \[64\]; resize it"):
        tiny_pipe("a ring", low_res=Image.new("RGB", (80, 50)), **SR)


def test_ones_own_photo_is_upright_and_16_bits_are_no_white(tmp_path):
    array = np.zeros((40, 40, 3), np.uint8)
    array[:20] = 255  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # to be shown upside down
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    turned = image_to_tensor(Image.open(tmp_path / "turned.png"), 8)
    assert turned[:, 0].mean() < -0.9 and turned[:, -1].mean() > 0.9
    Image.fromarray(np.full((40, 40), 32768, np.uint16)).save(tmp_path / "grey.png")
    assert image_to_tensor(Image.open(tmp_path / "grey.png"), 8).abs().max() < 0.01


# ---------------------------------------------------------------- seeds


def test_without_a_seed_there_is_a_fresh_one_for_each_prompt_and_it_is_reported(tiny_pipe):
    first, second = (tiny_pipe(["a ring", "a ring"], seed=None, **BASE) for _ in range(2))
    assert len({*first.seeds, *second.seeds}) == 4
    again = tiny_pipe(["a ring", "a ring"], seed=first.seeds, **BASE)
    assert torch.equal(again.stages["base"], first.stages["base"])


def test_a_generator_gives_the_seeds_and_moves_on(tiny_pipe):
    def generated(generator):
        return tiny_pipe(["a ring", "a ring"], seed=generator, **BASE)

    generator = torch.Generator().manual_seed(5)
    first, second = generated(generator), generated(generator)
    assert len({*first.seeds, *second.seeds}) == 4
    same = generated(torch.Generator().manual_seed(5))
    assert same.seeds == first.seeds and torch.equal(same.stages["base"], first.stages["base"])
    each = generated([torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)])
    assert each.seeds[0] == first.seeds[0] and each.seeds[0] != each.seeds[1]


@pytest.mark.parametrize("seed", [None, torch.Generator()])
def test_an_edit_draws_one_seed_for_all(tiny_pipe, seed):
    out = tiny_pipe(PAIR, seed=seed, edit=Replace(shared_prompt_steps=0.5), **BASE)
    assert len(out.seeds) == 2 and len(set(out.seeds)) == 1


@pytest.mark.parametrize(
    "seed",
    [np.int64(3), np.array(3), np.array([3, 3]), torch.tensor(3), torch.tensor([3, 3]), [3, 3]],
)
def test_integers_of_any_library_are_seeds(tiny_pipe, seed):
    out = tiny_pipe(["a ring", "a star"], seed=seed, **BASE)
    assert out.seeds == [3, 3] and all(type(s) is int for s in out.seeds)
    expected = tiny_pipe(["a ring", "a star"], seed=3, **BASE)
    assert torch.equal(out.stages["base"], expected.stages["base"])


@pytest.mark.parametrize(
    "seed", [1.5, 2.0, "3", True, [1.5], ["3"], [None], np.array([1.5]), {"base": 1}, object()]
)
def test_what_is_no_seed_is_refused(tiny_pipe, seed):
    with pytest.raises(TypeError, match="seed: expected an integer"):
        tiny_pipe("a ring", seed=seed, **BASE)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"num_inference_steps": "10"}, TypeError, "num_inference_steps: expected an integer of"),
        ({"num_inference_steps": 2.5}, TypeError, "num_inference_steps: .*got 2.5"),
        ({"num_inference_steps": {"sr_256": 2.5}}, TypeError, "num_inference_steps: .*got 2.5"),
        ({"num_inference_steps": True}, TypeError, "num_inference_steps: .*got True"),
        ({"num_inference_steps": -1}, ValueError, "num_inference_steps: .*at least 1; got -1"),
        ({"guidance_scale": "7"}, TypeError, "guidance_scale: expected a number; got '7'"),
        ({"guidance_scale": [7]}, TypeError, r"guidance_scale: expected a number; got \[7\]"),
        ({"guidance_scale": float("nan")}, ValueError, "guidance_scale: expected a finite number"),
        ({"guidance_scale": float("inf")}, ValueError, "guidance_scale: expected a finite number"),
        ({"guidance_scale": {"sr_256": float("nan")}}, ValueError, "guidance_scale: expected a fi"),
        ({"eta": "0.5", "sampler": "ddim"}, TypeError, "eta: expected a number"),
        ({"gamma": "x", "sampler": "ddpm"}, TypeError, "gamma: expected a number"),
        ({"aug_level": "0.1"}, TypeError, "aug_level: expected a number"),
        ({"aug_level": float("nan")}, ValueError, "aug_level: expected a finite number"),
        ({"aug_level": -0.1}, ValueError, "aug_level -0.1; expected a number from 0 to 1"),
        ({"aug_level": 2, "stages": "base"}, ValueError, "aug_level 2.0; expected a number from"),
        ({"aug_level": {"sr": 0.1}}, ValueError, r"aug_level: no stage \['sr'\]"),
        ({"threshold": {"sr_256": "clip"}}, ValueError, "threshold 'clip'; expected one of none,"),
        ({"timestep_spacing": {"sr_256": 3}}, ValueError, "timestep_spacing 3; expected one of"),
        ({"sampler": ["ddim"]}, ValueError, r"sampler \['ddim'\]; expected one of ddim"),
        ({"strength": "0.5", "image": pixels()}, TypeError, "strength: expected a number"),
        ({"stages": 1}, TypeError, "stages 1; expected names of stages"),
        ({"stages": "sr_256"}, ValueError, r"stages \['sr_256'\]; expected"),
        ({"on_step": 3}, TypeError, "on_step 3; expected a function"),
        ({"attention_store": True}, TypeError, "attention_store True; expected an AttentionStore"),
        ({"x_T": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}, TypeError, "x_T: .*expected flo"),
        ({"edit": "replace"}, TypeError, r"edit='replace': expected an edit such as Replace\(\)"),
        ({"edit": Replace}, TypeError, r"edit=Replace: expected an edit such as Replace\(...\)"),
        ({"edit": [Replace(), "blend"]}, TypeError, "edit='blend': expected an edit"),
        ({"edit": []}, ValueError, "expected at most one Replace"),
        ({"edit": [Replace(), Refine()]}, ValueError, "expected at most one Replace"),
        ({"edit": [Replace(), PlugAndPlay()]}, ValueError, "PlugAndPlay does not combine"),
        ({"negative_prompt": 3}, TypeError, "negative_prompt must be a string.*got int$"),
        ({"aug_level": 0.1, "stages": "base"}, ValueError, "aug_level 0.1 is not used"),
        (
            {"guidance_interval": {"sr_256": (0.2, 5.0)}, "guidance_scale": {"sr_256": 1.0}},
            ValueError,
            "of sr_256 is not used",
        ),
        (
            {"image": pixels(), "strength": 0.05, "negative_prompt": "a star", "stages": "base"}
            | {"guidance_interval": (2.0, 60.0)},
            ValueError,
            "guidance acts in none of the steps of base",
        ),
    ],
)
def test_an_option_of_the_wrong_kind_is_a_plain_error_before_anything_is_generated(
    tiny_pipe, options, error, message
):
    calls = []
    hook = tiny_pipe.stages["base"].net.register_forward_pre_hook(lambda *_: calls.append(1))
    prompts = PAIR if "edit" in options else "a ring"
    try:
        with pytest.raises(error, match=message):
            tiny_pipe(prompts, **{"progress": False} | options)
    finally:
        hook.remove()
    assert not calls


def test_numbers_of_other_libraries_and_one_name_of_a_stage_are_taken(tiny_pipe):
    plain = tiny_pipe("a ring", guidance_scale=3.0, aug_level=0.25, **SR).stages
    other = tiny_pipe(
        "a ring",
        guidance_scale=np.float32(3),
        num_inference_steps=torch.tensor(1),
        aug_level={"sr_256": np.float64(0.25)},
        progress=False,
    ).stages
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    one = tiny_pipe("a ring", stages="base", num_inference_steps=np.int64(1), progress=False)
    assert list(one.stages) == ["base"]


def test_a_pipeline_without_a_stage_is_refused(encoder, tiny_pipe, tmp_path):
    with pytest.raises(ValueError, match="at least one stage"):
        ImagenPipeline(encoder, [])
    tiny_pipe.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(index.read_text().replace('"base",', "").replace('"sr_256"', ""))
    with pytest.raises(ValueError, match="at least one stage"):
        ImagenPipeline.from_pretrained(tmp_path)


def test_a_list_of_edits_is_a_chain(tiny_pipe):
    edits = [Replace(shared_prompt_steps=0.5), Reweight({"red": 2}), LocalBlend("ring", "star")]
    options = {"stages": "base", "num_inference_steps": 4, "progress": False}
    chained = tiny_pipe(PAIR, edit=Chain(*edits), **options).stages["base"]
    assert torch.equal(tiny_pipe(PAIR, edit=edits, **options).stages["base"], chained)
    assert torch.equal(tiny_pipe(PAIR, edit=tuple(edits), **options).stages["base"], chained)
    alone = tiny_pipe(PAIR, edit=PlugAndPlay(), **options).stages["base"]
    assert torch.equal(tiny_pipe(PAIR, edit=[PlugAndPlay()], **options).stages["base"], alone)
    with pytest.raises(TypeError, match=r"edit=Replace: expected an edit such as Replace\(...\)"):
        Chain(Replace)


def test_an_edit_that_does_not_fit_a_later_stage_is_an_error_before_anything_is_generated(
    tiny_pipe,
):
    calls = []
    hook = tiny_pipe.stages["base"].net.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match="no word 'disc'"):
        edits = [Replace(), Reweight({"disc": 2})]
        tiny_pipe(PAIR, edit=edits, edit_stages="sr_256", progress=False)
    hook.remove()
    assert not calls


def test_a_record_that_does_not_fit_a_later_stage_is_an_error_before_anything_is_generated(
    tiny_pipe,
):
    calls = []
    hook = tiny_pipe.stages["base"].net.register_forward_pre_hook(lambda *_: calls.append(1))
    for store, message in (
        (AttentionStore("sr_256", max_bytes=1), "max_bytes allows 0.0: sample fewer"),
        (AttentionStore("sr_256", kinds=("hybrid",)), "no attention to record"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_pipe("a ring", attention_store=store, progress=False)
    hook.remove()
    assert not calls


@pytest.mark.parametrize(
    "scale, error, message",
    [
        (lambda t: 1 / 0, ValueError, "ZeroDivisionError: division by zero"),
        (lambda t: {}[t], ValueError, "KeyError: 1.0"),
        (lambda: 3.0, ValueError, "TypeError: .*takes 0 positional arguments"),
        (lambda t: "7", TypeError, "expected a number; got '7'"),
        (lambda t: None, TypeError, "expected a number; got None"),
        (lambda t: torch.ones(2), TypeError, "expected a number; got tensor"),
        (lambda t: float("nan"), ValueError, "expected a finite number; got nan"),
    ],
)
@pytest.mark.parametrize("stage", ["base", "sr_256"])
def test_an_error_of_a_guidance_scale_says_at_which_step_before_anything_is_generated(
    tiny_pipe, stage, scale, error, message
):
    calls = []
    hook = tiny_pipe.stages["base"].net.register_forward_pre_hook(lambda *_: calls.append(1))
    where = r"guidance_scale at step 1 of \d+, t = 1: "
    with pytest.raises(error, match=where + message):
        tiny_pipe("a ring", guidance_scale={stage: scale}, progress=False)
    with pytest.raises(ValueError, match=r"step 3 of 4, t = 0.5: .*TimeoutError: late"):
        options = {"timestep_spacing": "uniform", "num_inference_steps": {stage: 4}}
        tiny_pipe("a ring", guidance_scale={stage: late}, progress=False, **options)
    hook.remove()
    assert not calls


def late(t):
    if t < 0.6:
        raise TimeoutError("late")
    return 3.0


def test_a_guidance_scale_that_fails_the_second_time_says_at_which_step(tiny_pipe):
    asked = []

    def scale(t):
        asked.append(t)
        if len(asked) > 5:
            raise TimeoutError("late")
        return 3.0

    with pytest.raises(ValueError, match="step 3 of 3, t = 0.3333: TimeoutError: late"):
        tiny_pipe("a ring", guidance_scale=scale, **BASE | {"num_inference_steps": 3})
    assert asked[:3] == asked[3:6]


def test_a_guidance_scale_may_be_a_number_of_any_library(tiny_pipe):
    plain = tiny_pipe("a ring", guidance_scale=3.0, **BASE).stages["base"]
    for scale in (lambda t: np.float32(3), lambda t: torch.tensor(3), lambda t: 3):
        assert torch.equal(tiny_pipe("a ring", guidance_scale=scale, **BASE).stages["base"], plain)


def test_images_that_hold_nan_are_said_to(tiny_pipe):
    net = tiny_pipe.stages["base"].net
    hook = net.register_forward_hook(lambda _, __, prediction: prediction * float("nan"))
    with pytest.warns(UserWarning, match="stage base: 2 of 2 images hold NaN") as caught:
        tiny_pipe(PAIR, **BASE)
    hook.remove()
    assert [w.filename for w in caught] == [__file__]


# ---------------------------------------------------------------- threads


def test_8_threads_on_one_pipeline_generate_what_one_does(tiny_pipe):
    """Prompts of other lengths, edits and records of attention at the same time."""
    prompts = ["a ring", "a small red ring above a large blue star", "a red star", ""]
    options = {"stages": "base", "num_inference_steps": 2, "progress": False}

    def job(number):
        if number % 4 == 3:
            store = AttentionStore()
            edit = Replace(shared_prompt_steps=0.0)
            out = tiny_pipe(PAIR, seed=number, edit=edit, attention_store=store, **options)
            return torch.cat([out.stages["base"].flatten(), store.probs().flatten()])
        text = [prompts[number % 4], prompts[number % 3]][: 1 + number % 2]
        return tiny_pipe(text, seed=number, **options).stages["base"].flatten()

    alone = [job(number) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(job, range(24)))
    for first, second in zip(alone, together):
        assert torch.allclose(first, second, rtol=0, atol=1e-5)


def test_threads_that_encode_do_not_disturb_each_other(encoder):
    """The tokenizer keeps padding and truncation in itself, where another thread switches them."""
    short, long = "a ring", "a small red ring above a large blue star"
    tokens, text = encoder.tokenize_prompt(short), encoder([short, long])

    def job(number):
        if number % 2:
            return encoder.tokenize_prompt(short) == tokens
        found = encoder([short, long])
        return torch.equal(found.mask, text.mask) and torch.allclose(found.emb, text.emb, atol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(job, range(800)))


# ---------------------------------------------------------------- compiled networks


@pytest.mark.parametrize("what", ["net", "stage", "block"])
def test_a_compiled_network_is_saved_as_any_other(encoder, randomize_zero_init, tmp_path, what):
    stage = randomize_zero_init(DiffusionStage(PRESETS["tiny"]["base"]))
    weights = {name: w.clone() for name, w in stage.net.state_dict().items()}
    pipe = ImagenPipeline(encoder, [stage])
    if what == "net":
        stage.net = torch.compile(stage.net)
    elif what == "stage":
        pipe.stages["base"] = torch.compile(stage)
    else:
        name, block = next(iter(stage.net.named_children()))
        setattr(stage.net, name, torch.compile(block))
    pipe.save_pretrained(tmp_path)
    again = ImagenPipeline.from_pretrained(tmp_path).stages["base"].net.state_dict()
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_pil_images_come_back_from_tensors_unchanged():
    image = Image.fromarray(pixels())
    assert np.array_equal(np.asarray(to_pil(images_to_tensor(image))[0]), pixels())
