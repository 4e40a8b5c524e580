"""Make the folder of one format version: a pipeline and a run, both tiny and untrained.

    python tests/golden/make.py tests/golden/1

Made once, when a format is new, and never again: the tests hold later code to what is in it.
"""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import StageConfig
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.models.unet import UNetConfig
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.utils.images import to_image
from imagen_mini.weights import WEIGHTS
from train.train import main

NET = UNetConfig(
    patch=8,
    channels=(16, 16),
    blocks=(1, 1),
    attention=("cross", "hybrid"),
    head_dim=16,
    emb_dim=16,
    text_width=16,
    text_layers=1,
)
FACTS = "facts.json"  # of the images that the pipeline drew when it was made


def text_encoder() -> TextEncoder:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "text_encoder", local_files_only=True)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, num_heads=2, d_ff=16, num_layers=1
    )
    return TextEncoder(T5EncoderModel(config), tokenizer)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    random.seed(0)
    encoder = text_encoder()
    base = StageConfig("base", NET, num_inference_steps=3, text_encoder=encoder.weights_digest())
    sr = replace(
        base,
        name="sr_256",
        unet=replace(NET, image_size=256, low_res_size=64, skip="sum"),
        prediction="v",
    )
    stages = [DiffusionStage(base), DiffusionStage(sr)]
    for stage in stages:
        for p in stage.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.1)
    pipe = ImagenPipeline(encoder, stages)
    pipe.save_pretrained(folder / "pipeline")
    image = pipe("a red circle", seed=1, output_type="pt", progress=False).images[0]
    (folder / FACTS).write_text(
        json.dumps({"mean": image.mean((1, 2)).tolist(), "std": image.std((1, 2)).tolist()}) + "\n"
    )
    to_image(image).save(folder / "a red circle, seed 1.png")
    main(
        [
            "--stage",
            "base",
            "--init-from",
            str(folder / "pipeline" / "base"),
            "--text-encoder",
            str(folder / "pipeline" / "text_encoder"),
            "--output-dir",
            str(folder / "run"),
            "--device",
            "cpu",
            "steps=3",
            "batch_size=2",
            "sample_every=0",
            "save_every=3",
            "log_every=1",
        ]
    )
