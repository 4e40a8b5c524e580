"""Shared fixtures: the text encoder, networks that do not start at zero, a tiny cascade."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see utils.threads; before torch is loaded

from itertools import compress
from pathlib import Path

import pytest
import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder
from imagen_mini.weights import WEIGHTS

# each process has its share of the cores, and so have the programs that it starts
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


@pytest.hookimpl(trylast=True)  # when it is known which tests will run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every process its long tests first, so that short ones are left to even out the end.

    pytest-xdist cuts the list into consecutive parts of equal length, one for each process.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    marked = [any(map(item.get_closest_marker, ("slow", "notebook"))) for item in items]
    long = list(compress(items, marked))
    rest = [item for item, is_long in zip(items, marked) if not is_long]
    ordered: list[pytest.Item] = []
    for k in range(processes):
        ordered += long[k::processes]
        end = len(items) * (k + 1) // processes
        free = max(0, end - len(ordered)) if k < processes - 1 else len(rest)
        ordered += rest[:free]
        del rest[:free]
    items[:] = ordered if processes > 1 else items


@pytest.fixture(scope="session")
def encoder_folder() -> Path:
    """The shipped text encoder."""
    return WEIGHTS / "text_encoder"


@pytest.fixture(scope="session")
def encoder(encoder_folder) -> TextEncoder:
    return TextEncoder.from_pretrained(encoder_folder)


@pytest.fixture(scope="session")
def randomize_zero_init():
    """Gives what starts at zero (the last layer, each block's second convolution) small random
    values, in place, so that the output depends on everything that goes in.
    """

    def randomize_zero_init(module: torch.nn.Module, std: float = 0.1) -> torch.nn.Module:
        with torch.no_grad():
            for p in module.parameters():
                if not p.any():
                    p.normal_(std=std)
        return module

    return randomize_zero_init


@pytest.fixture(scope="session")
def tiny_pipe(encoder, randomize_zero_init) -> ImagenPipeline:
    """An untrained cascade of the "tiny" preset."""
    torch.manual_seed(0)
    return ImagenPipeline(
        encoder,
        [randomize_zero_init(DiffusionStage(PRESETS["tiny"][name])) for name in ("base", "sr_256")],
    )


@pytest.fixture(scope="session")
def random_text():
    """Text of given numbers of real tokens, with random embeddings where there is a token and zeros
    where there is none.
    """

    def random_text(
        lengths, width: int = 128, n: int | None = None, seed: int = 0, dtype=torch.float32
    ) -> TextEmbeddings:
        mask = torch.arange(n or max(lengths))[None] < torch.tensor(lengths)[:, None]
        emb = torch.randn(
            *mask.shape, width, generator=torch.Generator().manual_seed(seed), dtype=dtype
        )
        return TextEmbeddings(emb * mask[:, :, None], mask)

    return random_text
