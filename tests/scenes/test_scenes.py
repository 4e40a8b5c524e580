"""The built-in world: what is rendered, what training may see, and exact parsing of images."""

import math
import random
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import masks, render
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    GRID,
    MIN_GAP,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
    random_scene,
    training_scene,
)


def some_scenes(n, seed=0):
    """Any scene that the world can show, every eighth of them with five objects."""
    rng = random.Random(seed)
    return [
        random_scene(rng, count=5 if i % 8 == 0 else None, exclude_held_out=False) for i in range(n)
    ]


def one(shape="circle", color="red", size="large", texture="solid", x=32, y=32, background="white"):
    return Scene(
        (SceneObject(x=x, y=y, shape=shape, color=color, size=size, texture=texture),), background
    )


def as_shown(scene, size):
    return scene if size > GRID else scene.without_texture()


def round_trip(scenes, size, step=100):
    """Seconds spent on rendering and on parsing; fails at the first scene that is not recovered."""
    rendering = parsing = 0.0
    for start in range(0, len(scenes), step):
        part = scenes[start : start + step]
        begin = time.perf_counter()
        images = render(part, size)
        middle = time.perf_counter()
        parsed_scenes = parse_image(images)
        rendering, parsing = rendering + middle - begin, parsing + time.perf_counter() - middle
        assert len(parsed_scenes) == len(part)
        for scene, got in zip(part, parsed_scenes):
            assert got.scene == as_shown(scene, size), f"{scene} was read as {got}"
            assert got.problems == () and got.objects == got.scene.objects
    return rendering, parsing


# ---- scenes ----


def test_training_scenes_touch_no_held_out_split():
    # Written out once more, rather than asking held_out(), which is what the sampler itself asks.
    color_shape = {
        "red triangle",
        "blue star",
        "green square",
        "purple circle",
        "yellow cross",
        "cyan ring",
    }
    texture_shape = {"striped star", "dotted triangle", "checkered ring"}
    counts = set()
    for i in range(2000):
        objects = training_scene(7, i).objects
        counts.add(len(objects))
        for o in objects:
            assert f"{o.color} {o.shape}" not in color_shape
            assert f"{o.texture} {o.shape}" not in texture_shape
        for a in objects:
            for b in objects:
                right, down = b.x - a.x, b.y - a.y
                if right > abs(down):
                    assert (a.shape, b.shape) not in {("star", "cross"), ("triangle", "circle")}
                if down > abs(right):
                    assert (a.shape, b.shape) != ("ring", "square")
                if down - abs(right) >= 6:
                    assert (a.size, b.size) != ("large", "small")
    assert counts == {1, 2, 3, 4}


def test_every_attribute_occurs_in_training():
    objects = [o for i in range(500) for o in training_scene(0, i).objects]
    for name, values in (
        ("shape", SHAPES),
        ("color", COLORS),
        ("size", SIZES),
        ("texture", TEXTURES),
    ):
        assert {getattr(o, name) for o in objects} == set(values)
    assert {training_scene(0, i).background for i in range(500)} == set(BACKGROUNDS)


def test_training_scene_is_a_pure_function():
    first = [training_scene(3, i) for i in range(50)]
    random.seed(1)
    torch.manual_seed(1)
    assert [training_scene(3, i) for i in reversed(range(50))] == first[::-1]
    assert len(set(first)) > 45 and first != [training_scene(4, i) for i in range(50)]


def test_objects_keep_apart_and_inside():
    for scene in some_scenes(300):
        for i, a in enumerate(scene.objects):
            assert a.radius <= min(a.x, a.y) and max(a.x, a.y) <= GRID - a.radius
            for b in scene.objects[:i]:
                assert math.hypot(a.x - b.x, a.y - b.y) >= a.radius + b.radius + MIN_GAP


# ---- images ----


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_textures_vanish_at_64_and_show_at_256(shape, size):
    for color in COLORS:
        scenes = [one(shape, color, size, texture, x=31, y=30) for texture in TEXTURES]
        small, large = render(scenes, 64), render(scenes, 256)
        assert (small - small[:1]).abs().max() / 2 <= 1 / 255
        for a in range(4):
            for b in range(a):
                assert (large[a] - large[b]).abs().max() / 2 > 0.2
        assert large.min() >= -1 and large.max() <= 1  # nothing had to be clipped


def test_pooled_256_is_the_64_image():
    scenes = some_scenes(64, seed=1)
    small, pooled = render(scenes, 64), F.avg_pool2d(render(scenes, 256), 4)
    assert (small - pooled).abs().mean() < 0.005  # on [-1, 1]; only outlines differ
    for scene, a, b in zip(scenes, small, pooled):
        inside = 1 - F.max_pool2d(1 - masks(scene, 64).float(), 3, 1, 1).amax(0)
        assert ((a - b).abs() * inside).max() < 1e-5
    assert (
        [r.scene for r in parse_image(small)]
        == [r.scene for r in parse_image(pooled)]
        == [s.without_texture() for s in scenes]
    )


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("radius_name, r", [("small", 6.5), ("large", 10.5)])
def test_shapes_have_the_area_and_the_middle_they_should(size, radius_name, r):
    star = 5 * 1.36 * 0.6 * math.sin(math.pi / 5)
    areas = {
        "circle": math.pi,
        "square": 1.78**2,
        "triangle": 3 * math.sqrt(3) * 0.68**2,
        "star": star,
        "cross": 2 * 2.3 * 0.76 - 0.76**2,
        "ring": math.pi * (1.12**2 - 0.48**2),
    }
    assert set(areas) == set(SHAPES)
    for shape, area in areas.items():
        image = render(one(shape, "blue", radius_name, background="black"), size)[0]
        covered = (image[2] + 1) / 2 / COLORS["blue"][2] * (GRID / size) ** 2
        assert covered.sum().item() == pytest.approx(area * r * r, rel=0.02)
        # all stand upright at x = 32
        torch.testing.assert_close(covered, covered.flip(1), rtol=0, atol=1e-4)
        y = (torch.arange(size) + 0.5) * GRID / size
        if shape in ("circle", "square", "cross", "ring"):
            assert (covered.sum(1) @ y / covered.sum()).item() == pytest.approx(32, abs=1e-3)


@pytest.mark.parametrize("size", [64, 256])
def test_masks_are_what_was_generated(size):
    for scene in some_scenes(20, seed=2):
        scene = Scene(tuple(replace(o, texture="solid") for o in scene.objects), scene.background)
        found, image = masks(scene, size), (render(scene, size)[0] + 1) / 2
        assert found.shape == (len(scene.objects), size, size) and found.dtype == torch.bool
        assert found.sum(0).max() == 1  # disjoint
        ground = torch.tensor(BACKGROUNDS[scene.background])[:, None, None]
        for o, mask in zip(scene.objects, found):
            way = torch.tensor(COLORS[o.color])[:, None, None] - ground
            covered = ((image - ground) * way).sum(0) / way.square().sum()
            assert covered[mask].min() > 0.499
            nearby = F.max_pool2d(mask[None].float(), 3, 1, 1)[0].bool()
            others = (found.sum(0) > 0) & ~mask
            assert covered[nearby & ~mask & ~others].max() < 0.501
        assert (image - ground)[
            :, F.max_pool2d(found.any(0)[None].float(), 7, 1, 3)[0] == 0
        ].abs().max() < 0.3


@pytest.mark.parametrize("size", [64, 192, 256])
def test_a_batch_is_generated_and_read_as_single_images(size):
    scenes = some_scenes(12, seed=3)
    batch = render(scenes, size)
    assert batch.shape == (12, 3, size, size)
    for scene, image in zip(scenes, batch):
        torch.testing.assert_close(render(scene, size)[0], image, rtol=0, atol=1e-6)
    assert parse_image(batch) == [parsed for image in batch for parsed in parse_image(image[None])]


# ---- reading ----


@pytest.mark.parametrize("size, n", [(64, 1000), (128, 100), (256, 300)])
def test_round_trip(size, n):
    round_trip(some_scenes(n), size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 256])
def test_round_trip_of_10000(size):
    rendering, parsing = round_trip(some_scenes(10_000, seed=10), size)
    print(
        f"\n10,000 scenes at {size} px: rendered {10_000 / rendering:.0f}/s, parsed "
        f"{10_000 / parsing:.0f}/s, all exact"
    )


def test_an_empty_scene_is_a_scene():
    for background in BACKGROUNDS:
        assert parse_image(render(Scene((), background), 64))[0].scene == Scene((), background)
    assert parse_image(torch.zeros(0, 3, 64, 64)) == []


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("std", [0.05, 0.1])
def test_noise_and_rounding_change_nothing(size, std):
    scenes = some_scenes(60, seed=4)
    images = render(scenes, size)
    noisy = images + std * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    rounded = ((noisy.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    assert [r.scene for r in parse_image(rounded)] == [as_shown(s, size) for s in scenes]


def test_blur_does_not_join_neighbours():
    scenes = some_scenes(500, seed=7)
    blurred = F.avg_pool2d(F.pad(render(scenes, 64), (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert [r.scene for r in parse_image(blurred)] == [s.without_texture() for s in scenes]


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (1, 1), (2, 1), (-1, 2)])
def test_half_a_pixel_and_another_phase_are_still_read(shift):
    """At 256 px, a shift by whole pixels moves the image by quarters of 1/64, and the textures'
    phase with it.
    """
    scenes = some_scenes(40, seed=5)
    parsed_scenes = parse_image(render(scenes, 256).roll(shift, (2, 3)))
    for scene, parsed in zip(scenes, parsed_scenes):
        assert parsed.problems == ()
        nearest = [
            min(parsed.objects, key=lambda r: math.hypot(r.x - o.x, r.y - o.y))
            for o in scene.objects
        ]
        assert [replace(r, x=o.x, y=o.y) for r, o in zip(nearest, scene.objects)] == list(
            scene.objects
        )
        assert all(
            abs(r.x - o.x) <= 1 and abs(r.y - o.y) <= 1 for r, o in zip(nearest, scene.objects)
        )


def expect_problem(image, words, objects=None):
    for resized in (image, F.interpolate(image[None], scale_factor=4)[0]):
        (parsed,) = parse_image(resized[None])
        assert parsed.scene is None
        assert any(words in problem for problem in parsed.problems), parsed
        if objects is not None:
            assert len(parsed.objects) == objects


def test_noise_and_gradients_are_no_scenes():
    expect_problem(
        torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1,
        "no known background",
        0,
    )
    expect_problem(torch.linspace(-1, 1, 64).expand(3, 64, 64), "no known background", 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(value):
    image = render(one(), 64)[0]
    image[1, 5, 5] = value
    expect_problem(image, "not finite", 0)
    assert [r.scene is None for r in parse_image(torch.stack([image, render(one(), 64)[0]]))] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    "shape, color, size",
    [
        ("circle", "blue", "large"),
        ("circle", "red", "small"),
        ("square", "green", "small"),
        ("ring", "red", "large"),
    ],
)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_touching_objects_are_not_one_object(shape, color, size, background):
    (a,), (b,) = one(x=20, background=background).objects, one(shape, color, size).objects
    radius = {"circle": 1.0, "square": 0.89, "ring": 1.12}[shape] * SIZES[size]
    touching = replace(b, x=math.floor(20 + SIZES["large"] + radius - 0.5))  # for certain
    assert all(
        r.scene is None and r.problems
        for r in parse_image(render(Scene((a, touching), background), 64))
    )
    apart = Scene((a, replace(b, x=touching.x + 5)), background)  # nothing but the gap was wrong
    assert parse_image(render(apart, 64))[0].scene == apart.without_texture()


@pytest.mark.parametrize(
    "background, color",
    [
        ("white", (0.45, 0.25, 0.1)),
        ("beige", (1.0, 1.0, 1.0)),
        ("black", (0.4, 0.4, 0.4)),
        ("gray", (0.2, 0.2, 0.2)),
    ],
)
def test_an_unknown_color_is_a_problem(background, color):
    scene = one(background=background)
    image = render(scene, 64)[0]
    image[:, masks(scene)[0]] = torch.tensor(color)[:, None] * 2 - 1
    expect_problem(image, "no known colour", 0)


def test_an_unknown_shape_is_a_problem():
    image = render(Scene((), "gray"), 64)[0].clone()
    image[:, 30:34, 15:45] = torch.tensor(COLORS["red"])[:, None, None] * 2 - 1  # a bar
    expect_problem(image, "no known shape", 0)
    upside_down = render(one("triangle"), 64)[0].flip(1)
    expect_problem(upside_down, "no known shape", 0)


def test_an_object_with_a_wrong_part_is_a_problem():
    image = render(one("circle", "red"), 64)[0]
    image[:, :, :32] = render(one("circle", "blue"), 64)[0, :, :, :32]  # half red, half blue
    assert parse_image(image[None])[0].scene is None
    image = render(one("triangle", "red"), 64)[0]
    # a bump on its left side
    image[:, 22:28, 21:28] = torch.tensor(COLORS["red"])[:, None, None] * 2 - 1
    expect_problem(image, "is more than a large triangle", 0)


def test_what_can_be_read_is_read_beside_a_problem():
    scene = Scene(one(x=16, y=16).objects + one("star", "blue", x=46, y=46).objects, "white")
    image = render(scene, 64)[0]
    image[:, masks(scene)[1]] = torch.tensor((0.4, 0.4, 0.4))[:, None] * 2 - 1
    (parsed,) = parse_image(image[None])
    assert (
        parsed.scene is None
        and len(parsed.problems) == 1
        and "no known colour" in parsed.problems[0]
    )
    assert parsed.background == "white" and parsed.objects == scene.without_texture().objects[:1]


def test_dirt_is_ignored_but_a_small_object_is_a_problem():
    image = render(one(), 64)[0]
    red = torch.tensor(COLORS["red"])[:, None, None] * 2 - 1
    image[:, 4:6, 4:6] = red
    assert parse_image(image[None])[0].scene == one().without_texture()
    image[:, 4:9, 4:9] = red
    expect_problem(image, "the object at (6, 6) is no known shape", 1)


def test_an_unknown_texture_is_a_problem():
    image = render(one("square"), 256)[0]
    image[:, masks(one("square"), 256)[0]] += (
        0.4 * (1 - 2 * (torch.arange(256) % 4 // 2)).expand(256, 256)[masks(one("square"), 256)[0]]
    )  # stripes that stand upright
    (parsed,) = parse_image(image[None])
    assert parsed.scene is None and "no known texture" in parsed.problems[0]
    assert parsed.objects == one("square").without_texture().objects
    # and half of the contrast is still a texture
    for texture in ("striped", "dotted", "checkered"):
        faint = (render(one("square", texture=texture), 256) + render(one("square"), 256)) / 2
        assert parse_image(faint)[0].scene == one("square", texture=texture)


@pytest.mark.parametrize(
    "images, words",
    [
        (torch.zeros(3, 64, 64), r"images\[None\]"),
        (torch.zeros(1, 1, 64, 64), "expected .b, 3"),
        (torch.zeros(1, 3, 64, 128), "64, 128"),
        (torch.zeros(1, 3, 100, 100), "multiple of 64"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "127.5"),
    ],
)
def test_images_of_another_form_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        parse_image(images)
