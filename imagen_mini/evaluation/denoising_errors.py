"""The error of denoisers by noise level: how far x_0_hat is from x_0, on the same images and noise
for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.gaussian import q_sample, to_x_0
from imagen_mini.text.encoder import TextEmbeddings

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t, log_snr) -> x_0_hat


def stage_denoiser(stage: DiffusionStage, text: TextEmbeddings, *conditioning: Tensor) -> Denoiser:
    """Return a stage as a function (x_t [b, c, h, w], log_snr [b]) -> x_0_hat, without guidance.

    Args:
        stage: The stage.
        text: Embeddings of b captions.
        *conditioning: For super-resolution, the augmented low-resolution images and their levels.
    """

    def denoise(x_t: Tensor, log_snr: Tensor) -> Tensor:
        prediction = stage.net(x_t, log_snr, text, *conditioning)
        return to_x_0(prediction, stage.config.prediction, x_t, log_snr)

    return denoise


@torch.no_grad()
def denoising_errors(
    denoisers: Mapping[str, Denoiser],
    x_0: Tensor,
    log_snrs: Sequence[float],
    noise: Callable[[float], Tensor],
) -> dict[str, Tensor]:
    """Measure the mean squared error of x_0_hat by log-SNR, for each image.

    At each level, x_t = alpha x_0 + sigma eps is made once and given to all denoisers.

    Args:
        denoisers: Name -> function (x_t, log_snr) -> x_0_hat.
        x_0: Clean images [b, c, h, w] in [-1, 1].
        log_snrs: The noise levels, as log(alpha^2 / sigma^2).
        noise: log-SNR -> eps [b, c, h, w]; a constant function gives all levels the same noise.

    Returns:
        Name -> [len(log_snrs), b], the mean over pixels of (x_0_hat - x_0)^2, on the CPU.
    """
    errors: dict[str, list[Tensor]] = {name: [] for name in denoisers}
    for level in log_snrs:
        log_snr = torch.full((len(x_0),), float(level), device=x_0.device)
        x_t = q_sample(x_0, noise(level), log_snr)
        for name, denoise in denoisers.items():
            error = denoise(x_t, log_snr) - x_0
            errors[name].append(error.float().square().mean((1, 2, 3)).cpu())
    return {name: torch.stack(levels) for name, levels in errors.items()}
