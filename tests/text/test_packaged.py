"""Text encoders that an installed package holds: named in a folder, found, and loaded."""

import shutil

import pytest
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.text import packaged
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.text.packaged import PackagedEncoder
from train import export_pipeline


@pytest.fixture
def installed(encoder_folder, tmp_path, monkeypatch):
    """The shipped encoder as part of a package, whose code must not be run."""
    place = tmp_path / "site" / "a_packaged_encoder" / "model"
    shutil.copytree(encoder_folder, place)
    (place.parent / "__init__.py").write_text("raise AssertionError('its code was run')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(
        packaged, "packages_distributions", lambda: {"a_packaged_encoder": ["a-package"]}
    )
    monkeypatch.setattr(packaged, "version", {"a-package": "1.2"}.get)
    return place


def test_a_folder_that_names_a_package_is_loaded_from_there(installed, encoder, tmp_path):
    PackagedEncoder.at(installed).name_in(tmp_path / "named")
    found = PackagedEncoder.named_in(tmp_path / "named")
    assert found == PackagedEncoder("a-package==1.2", "a_packaged_encoder", "model")
    assert found.find() == installed
    again = TextEncoder.from_pretrained(tmp_path / "named")
    assert torch.equal(again(["a red ring"]).emb, encoder(["a red ring"]).emb)
    assert PackagedEncoder.named_in(installed) is None


def test_a_package_that_is_not_there_says_what_to_install(tmp_path):
    PackagedEncoder("some-package==1", "no_such_module_here", "model").name_in(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not installed: pip install some-package==1"):
        TextEncoder.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is in no installed package"):
        PackagedEncoder.at(tmp_path)
    for damage in ("{", "[]", '{"package": "p"}'):
        (tmp_path / packaged.PACKAGED_ENCODER).write_text(damage)
        with pytest.raises(ValueError, match="is damaged: expected package, module and folder"):
            TextEncoder.from_pretrained(tmp_path)


def test_an_exported_pipeline_may_name_the_package(installed, tiny_pipe, tmp_path, capsys):
    tiny_pipe.save_pretrained(tmp_path / "tiny")
    options = ["--base", str(tmp_path / "tiny" / "base"), "--text-encoder", str(installed)]
    export_pipeline.main([*options, "--packaged-encoder", "--out", str(tmp_path / "out")])
    folder = tmp_path / "out" / "text_encoder"
    assert [file.name for file in folder.iterdir()] == [packaged.PACKAGED_ENCODER]
    pipe = ImagenPipeline.from_pretrained(tmp_path / "out")
    assert pipe.text_encoder.weights_digest() == tiny_pipe.text_encoder.weights_digest()
    # it can be exported so once more, as its encoder is named there already
    options = ["--base", str(tmp_path / "out" / "base"), "--packaged-encoder"]
    export_pipeline.main([*options, "--out", str(tmp_path / "again")])
    named = PackagedEncoder.named_in(tmp_path / "again" / "text_encoder")
    assert named == PackagedEncoder.named_in(folder)
    # what is saved from it is whole again
    pipe.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "text_encoder" / "model.safetensors").is_file()
