"""Images of the world `studio`: their statistics, and that they show what the scene says."""

import random
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from imagen_mini.scenes.scene import (
    COLORS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    SURFACES,
    TEXTURES,
    Scene,
    SceneObject,
)
from imagen_mini.scenes.studio.noise import fractal_relief, spline_weights, uniform, value_noise
from imagen_mini.scenes.studio.render import PAINTS, render_studio
from imagen_mini.scenes.world import WORLDS
from imagen_mini.utils.morphology import dilate, erode

STUDIO = WORLDS["studio"]


def some_scenes(n, seed=0, **options):
    rng = random.Random(seed)
    return [STUDIO.random_scene(rng, **options) for _ in range(n)]


def one(background="linen", light="left", seed=0, **changed):
    obj = SceneObject(32, 32, "circle", "red", "large", "solid", "matte")
    return Scene((replace(obj, **changed),), background, light, seed)


@pytest.fixture(scope="module")
def scenes():
    return some_scenes(96, seed=1)


@pytest.fixture(scope="module")
def images(scenes):
    """By size; fewer of the large ones."""
    return {64: render_studio(scenes, 64), 256: render_studio(scenes[:32], 256)}


# ---- noise ----


def test_random_numbers_are_uniform_independent_and_functions_of_their_arguments():
    seeds = torch.arange(200)[:, None]
    a, b = uniform(seeds, 1, torch.arange(200)), uniform(seeds, 2, torch.arange(200))
    assert torch.equal(a, uniform(seeds, 1, torch.arange(200)))
    assert torch.equal(a[7, 9], uniform(torch.tensor(7), 1, torch.tensor(9)))
    assert 0 <= a.min() and a.max() < 1
    histogram = torch.histc(a, 20, 0, 1) / a.numel()
    assert (histogram - 0.05).abs().max() < 0.005
    for x, y in ((a, b), (a[1:], a[:-1]), (a[:, 1:], a[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]) < 0.02


@pytest.mark.parametrize("down, across", [(4, 4), (32, 3), (64, 64)])
def test_noise_of_a_small_image_is_the_average_of_a_large_one(down, across):
    small, large = (value_noise(torch.arange(4), 5, down, across, size) for size in (64, 256))
    torch.testing.assert_close(small, F.avg_pool2d(large, 4), rtol=0, atol=1e-5)
    assert 0.5 < large.std() < 1.3 and abs(large.mean()) < 0.5


def test_splines_are_those_of_the_textbook():
    """Weights at the corners: 1/6, 2/3, 1/6 at a node, and 1/48, 23/48, 23/48, 1/48 between."""
    scale = (151 / 315) ** 0.5  # of unit variance
    weights = spline_weights(2, 4, corners=True) * scale
    assert weights.shape == (5, 5)
    torch.testing.assert_close(weights[2], torch.tensor([0, 1 / 6, 2 / 3, 1 / 6, 0]))
    torch.testing.assert_close(weights[1], torch.tensor([1.0, 23, 23, 1, 0]) / 48)
    assert torch.allclose((spline_weights(7, 64) * scale).sum(1), torch.ones(64))


def test_the_slopes_of_a_relief_are_its_differences():
    seed, cells = torch.arange(2), (4, 8)
    relief = fractal_relief(seed, 3, 256, cells, 0.6)
    step = 256 / 64  # pixels to a unit
    right = (relief.value[:, :, 2:] - relief.value[:, :, :-2]) / 2 * step
    down = (relief.value[:, 2:] - relief.value[:, :-2]) / 2 * step
    assert (right - relief.dx[:, :, 1:-1]).abs().max() < 0.01 * relief.dx.abs().max()
    assert (down - relief.dy[:, 1:-1]).abs().max() < 0.01 * relief.dy.abs().max()
    small = fractal_relief(seed, 3, 64, cells, 0.6)
    for a, b in zip(small, relief):
        assert (a - F.avg_pool2d(b[None], 4)[0]).abs().max() < 0.02 * b.abs().max()


# ---- statistics of photographs ----


def spectral_slope(images):
    """The slope of each image's power spectrum over frequency, both logarithmic.

    Brightness under a Hann window; power averaged over rings of one cycle; a line fitted from two
    cycles to half of the highest frequency, above which a pixel's own average counts, with equal
    weight to each octave.
    """
    size = images.shape[-1]
    gray = images.mean(1)
    window = torch.hann_window(size, periodic=False)
    gray = (gray - gray.mean((1, 2), keepdim=True)) * window * window[:, None]
    power = torch.fft.fft2(gray).abs().square().flatten(1)
    frequency = torch.fft.fftfreq(size) * size
    ring = (frequency**2 + frequency[:, None] ** 2).sqrt().round().long().flatten()
    counts = torch.bincount(ring)
    mean = torch.zeros(len(images), len(counts)).index_add_(1, ring, power) / counts
    of = torch.arange(2, size // 4)
    x, y, weight = of.float().log(), mean[:, of].log(), 1 / of / (1 / of).sum()
    x = x - (weight * x).sum()
    return (weight * x * y).sum(1) / (weight * x**2).sum()


def test_the_slope_of_known_spectra_is_found():
    g = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(128)
    radius = (frequency**2 + frequency[:, None] ** 2).sqrt().clamp(min=1 / 128)
    white = torch.fft.fft2(torch.randn(16, 3, 128, 128, generator=g))
    for slope in (-1.0, -2.0, -3.0):
        found = spectral_slope(torch.fft.ifft2(white * radius ** (slope / 2)).real)
        assert found.mean() == pytest.approx(slope, abs=0.15)


@pytest.mark.parametrize("size", [64, 256])
def test_images_have_the_statistics_of_photographs(images, size):
    """Values are moderate and seldom at the rim, and power falls as in photographs: Tolhurst,
    Tadmor and Chao (1992) find slopes of the amplitude of -0.8 to -1.5 in 135 photographs, -1.2 on
    average, which are slopes of the power of -1.6 to -3.0, and -2.4 on average.
    """
    world = WORLDS["scenes"]
    flat = world.render([world.training_scene(0, i, (22, 50, 17, 11)) for i in range(32)], size)
    found = {}
    for name, x in (("studio", images[size]), ("scenes", flat)):
        mean, rim, slopes = x.abs().mean(), (x.abs() >= 0.99).float(), spectral_slope(x)
        found[name] = mean, rim, slopes
        print(f"{name}, {size} px: {mean:.2f}, {100 * rim.mean():.2g} %, {slopes.mean():.2f}")
    mean, rim, slopes = found["studio"]
    assert 0.28 < mean < 0.40
    assert rim.mean() < 0.005 and rim.mean((1, 2, 3)).max() < 0.03
    assert -2.7 < slopes.mean() < -2.1
    assert ((slopes > -3.3) & (slopes < -1.3)).float().mean() > 0.85
    assert found["scenes"][1].mean() > 0.2  # the flat world is far from it


# ---- one scene at several sizes ----


def test_a_small_image_is_close_to_the_average_of_a_large_one(scenes, images):
    pooled = F.avg_pool2d(images[256], 4)
    assert (images[64][:32] - pooled).abs().mean() < 0.05  # of a range of 2
    # and to no other: a shift by one pixel doubles the difference
    assert (images[64][:32].roll(1, 3) - pooled).abs().mean() > 0.07
    huge = F.avg_pool2d(render_studio(scenes[:2], 1024), 4)
    assert (huge - images[256][:2]).abs().mean() < 0.06


def test_a_large_image_shows_what_a_small_one_cannot(scenes, images):
    for small, large in ((64, 256), (256, 1024)):
        some = render_studio(scenes[:2], large)
        up = F.interpolate(render_studio(scenes[:2], small), scale_factor=4, mode="bicubic")
        assert (up - some).square().mean((1, 2, 3)).min() > 1e-3  # 30 dB


def test_textures_show_at_256_and_leave_no_trace_at_64():
    for material in MATERIALS:
        some = [one(texture=t, material=material) for t in TEXTURES]
        small, large = render_studio(some, 64), render_studio(some, 256)
        inside = erode(STUDIO.masks(some[0], 256), 4)[0]
        assert torch.equal(small, small[:1].expand_as(small))
        for a in range(4):
            for b in range(a):
                assert (large[a] - large[b])[:, inside].abs().mean() > 0.08


@pytest.mark.parametrize("size", [64, 256])
def test_a_batch_is_rendered_as_single_images(scenes, images, size):
    for i in (0, 5, 17):
        single = render_studio(scenes[i], size)[0]
        torch.testing.assert_close(single, images[size][i], rtol=0, atol=1e-5)


def test_an_empty_scene_is_its_surface():
    for name in SURFACES:
        image = render_studio(Scene((), name, "left", 1), 64)
        assert image.shape == (1, 3, 64, 64) and image.isfinite().all()
    assert render_studio([], 64).shape == (0, 3, 64, 64)


# ---- what a scene says is what is seen ----


def test_the_seed_changes_the_grain_and_nothing_that_is_said():
    a, b = (render_studio(one(seed=s), 64)[0] for s in (1, 2))
    assert (a - b).abs().mean() > 0.02
    assert torch.equal(a, render_studio(one(seed=1), 64)[0])


@pytest.mark.parametrize("size, surfaces", [(64, tuple(SURFACES)), (256, ("slate",))])
def test_an_object_changes_its_mask_and_its_shadow_alone(size, surfaces):
    some = [one(s, shape=shape, size="small", x=20, y=30) for s in surfaces for shape in SHAPES]
    with_it = render_studio(some, size)
    without = render_studio([replace(scene, objects=()) for scene in some], size)
    for scene, change in zip(some, (with_it - without).abs().amax(1)):
        mask = STUDIO.masks(scene, size)[0]
        assert change[mask].mean() > 0.2
        far = ~dilate(mask[None], 8 * size // 64)[0]
        assert change[far].max() < 0.05


def test_the_lamp_is_on_the_side_that_the_scene_says():
    towards = {"left": (0, -1), "right": (0, 1), "top": (-1, 0), "bottom": (1, 0)}
    line = (torch.arange(64) + 0.5) / 32 - 1
    for background in SURFACES:
        for light, (down, right) in towards.items():
            empty = [Scene((), background, light, seed) for seed in range(8)]
            image = render_studio(empty, 64).mean(1)
            slope = (image * (down * line[:, None] + right * line)).mean((1, 2))
            across = (image * (right * line[:, None] - down * line)).mean((1, 2))
            assert slope.mean() > 0.04 and (slope > 0.01).all()  # brighter towards the lamp
            assert (slope > across.abs()).sum() >= 6
            # and the shadow falls to the other side
            objects = one(background, light).objects
            with_it = render_studio([replace(s, objects=objects) for s in empty], 64).mean(1)
            outside = ~dilate(STUDIO.masks(one(), 64), 1)[0]
            darker = ((image - with_it) * outside).clamp(min=0)
            side = (darker * (down * line[:, None] + right * line)).sum((1, 2))
            assert (side < -0.1 * darker.sum((1, 2)) * 10 / 32).all()


def test_colours_can_be_told_apart_under_every_light_on_every_surface_in_every_material():
    names = list(PAINTS)
    assert names == list(COLORS)
    palette = F.normalize(torch.tensor(list(PAINTS.values())), dim=1)
    wrong, seen = [], 0
    for scene, image in zip(sample := some_scenes(250, seed=3), render_studio(sample, 64)):
        for o, mask in zip(scene.objects, STUDIO.masks(scene, 64)):
            color = (image[:, mask] + 1).median(1).values / 2
            nearest = names[(palette @ F.normalize(color, dim=0)).argmax()]
            seen += 1
            wrong += [] if nearest == o.color else [(o, nearest)]
    assert len(wrong) <= 0.01 * seen, wrong


def test_surfaces_can_be_told_apart_at_64_pixels():
    """By brightness, colour, contrast of detail and how much of it runs along rows and columns: the
    nearest mean of other images.
    """
    features = []
    for name in SURFACES:
        image = render_studio([Scene((), name, LIGHTS[i % 4], i) for i in range(60)], 64)
        gray = image.mean(1, keepdim=True)
        fine = (gray - F.avg_pool2d(gray, 5, 1, 2))[:, 0, 2:-2, 2:-2]
        contrast = fine.std((1, 2))
        streaks = [fine.mean(dim).std(1) / contrast for dim in (1, 2)]
        color = (image.mean((2, 3)) - gray.mean((2, 3)))[:, ::2].T
        one_kind = [gray.mean((1, 2, 3)), *color, contrast, torch.stack(streaks).amin(0)]
        features.append(torch.stack(one_kind, 1))
    known, unknown = torch.stack(features).split(30, 1)  # [surfaces, 30, features] each
    spread = known.std(1).mean(0)
    distances = torch.cdist(unknown / spread, (known.mean(1) / spread)[None])
    correct = distances.argmin(2) == torch.arange(len(SURFACES))[:, None]
    assert correct.float().mean() > 0.95, correct.float().mean(1)


@pytest.mark.parametrize("size", ["small", "large"])
def test_materials_differ_at_64_pixels(size):
    """What material an object has changes its image more than its own tone does."""
    for shape in SHAPES:
        for light in LIGHTS:
            some = [one("slate", light, 3, shape=shape, size=size, material=m) for m in MATERIALS]
            images = render_studio(some, 64)
            mask = STUDIO.masks(some[0], 64)[0]
            for a in range(3):
                for b in range(a):
                    assert (images[a] - images[b])[:, mask].abs().mean() > 0.05
                    worst = (images[a] - images[b])[:, mask].abs().amax()
                    assert worst > 0.3


def test_masks_are_those_of_the_flat_world():
    scene = some_scenes(1, seed=4)[0]
    flat = Scene(tuple(replace(o, material=None) for o in scene.objects), "white")
    for size in (64, 256):
        assert torch.equal(STUDIO.masks(scene, size), WORLDS["scenes"].masks(flat, size))
    assert SIZES  # the same sizes, and so the same masks


class CountedOperations(TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [64, 256])
def test_as_many_operations_for_many_scenes_as_for_few(size):
    """Nothing is done scene by scene or object by object, so a GPU is kept busy."""
    many = [
        one(surface, light, i, shape=shape, size=length)
        for i, (surface, light) in enumerate(zip(SURFACES, (*LIGHTS, "left")))
        for shape in SHAPES
        for length in SIZES
    ]
    few = [
        Scene((*one(shape=a, x=12).objects, *one(shape=b, size="small", x=45).objects), s, "left")
        for a, b, s in zip(SHAPES, [*SHAPES][::-1], [*SURFACES, "wood"])
    ]
    counts = []
    for scenes in (few, many):
        packed = STUDIO.pack(scenes)
        STUDIO.render_packed(packed, size, None)  # what is made once
        with CountedOperations() as operations:
            STUDIO.render_packed(packed, size, None)
        counts.append(operations.count)
    print(f"{size} px: {counts[1]} operations")
    assert abs(counts[0] - counts[1]) < 50 and max(counts) < 5000  # views of tensors among them


@pytest.mark.slow
def test_rendering_rate():
    """Prints images a second of CPU time on one thread; a machine's speed is no assertion."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    scenes = [STUDIO.training_scene(4, i, (20, 55, 15, 10)) for i in range(64)]
    for size, at_once in ((64, 64), (256, 16)):
        packed = [STUDIO.pack(scenes[i : i + at_once]) for i in range(0, 64, at_once)]
        seconds = []
        for _ in range(4):  # the first makes what is made once
            start = time.process_time()
            images = [STUDIO.render_packed(part, size, None) for part in packed]
            seconds.append(time.process_time() - start)
        print(f"{size} px, {at_once} at once: {64 / min(seconds):.0f} images a second")
        assert all(part.isfinite().all() for part in images)
    torch.set_num_threads(threads)
