"""The cascade: text -> 64 px -> 256 px. Noise-conditioning augmentation, a stage, and the pipeline
that people call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor, nn

from imagen_mini.cascade.config import StageConfig
from imagen_mini.diffusion.gaussian import q_sample, two_candidate_posterior_mean
from imagen_mini.diffusion.guidance import Denoiser, GuidanceScale, guidance_interval, make_denoiser
from imagen_mini.diffusion.losses import capped_v_weight, denoising_loss
from imagen_mini.diffusion.schedules import SCHEDULES, cosine_log_snr
from imagen_mini.diffusion.timesteps import spaced_timesteps
from imagen_mini.models.unet import UNet
from imagen_mini.text.encoder import TextEmbeddings


def augment_low_res(low_res: Tensor, aug_level: Tensor, noise: Tensor) -> Tensor:
    """Noise-conditioning augmentation: the forward process of the unshifted cosine schedule, at
    time `aug_level`.

    low_res [b, 3, h, w], already in [-1, 1]; aug_level [b] in [0, 1], 0 leaves the image as it is
    (to 0.3 % noise). Training and sampling both call this function, on the same kind of image.

    Source: Imagen (2022), Section 2.4.
    """
    return q_sample(low_res, noise, cosine_log_snr(aug_level))


class DiffusionStage(nn.Module):
    """One diffusion model of the cascade: a U-Net with the schedule and the prediction that it was
    trained for.
    """

    def __init__(self, config: StageConfig):
        super().__init__()
        self.config = config
        self.net = UNet(config.unet)

    @property
    def is_super_resolution(self) -> bool:
        return self.config.unet.low_res_size is not None

    def log_snr_of(self, t: Tensor) -> Tensor:
        """The stage's noise schedule."""
        return SCHEDULES[self.config.schedule](t, self.config.log_snr_shift)

    def times(self, steps: int | None = None, spacing: str | None = None) -> Tensor:
        """The times at which a sampler stops [steps + 1], from 1 down to 0. None: the stage's
        default.
        """
        device = self.net.out.weight.device
        return spaced_timesteps(
            spacing or self.config.spacing,
            self.config.num_inference_steps if steps is None else steps,
            self.log_snr_of,
            device,
        )

    def default_guidance(self) -> GuidanceScale:
        """The stage's own w, at its own noise levels."""
        w, interval = self.config.guidance_scale, self.config.guidance_interval
        return w if interval is None or w == 1 else guidance_interval(w, *interval, self.log_snr_of)

    def loss(
        self,
        x_0: Tensor,
        text: TextEmbeddings,
        t: Tensor,
        eps: Tensor,
        low_res: Tensor | None = None,
        aug_level: Tensor | None = None,
        low_res_noise: Tensor | None = None,
        use_pooled: Tensor | None = None,
        weight: Callable[[Tensor], Tensor] = capped_v_weight,
        shown: Tensor | None = None,
        other: Tensor | None = None,
    ) -> Tensor:
        """Denoising loss per example, [b], at given times t [b] with given noise, weighted by a
        function of the log-SNR: nothing here is random.

        `shown` [b, 3, h, w]: images to be noised instead of x_0; `other` [b, 3, h, w]: images as
        likely as x_0 for the same text, so that the target is what x_t says of the two.
        """
        log_snr = self.log_snr_of(t)
        x_t = q_sample(x_0 if shown is None else shown, eps, log_snr)
        if other is not None:
            x_0 = two_candidate_posterior_mean(x_0, other, x_t, log_snr)
        if low_res is not None:
            low_res = augment_low_res(low_res, aug_level, low_res_noise)
        prediction = self.net(x_t, log_snr, text, low_res, aug_level, use_pooled=use_pooled)
        return denoising_loss(prediction, self.config.prediction, x_0, x_t, log_snr, weight)

    forward = loss  # what wrappers such as DistributedDataParallel call

    def denoiser(
        self,
        text: TextEmbeddings,
        low_res: Tensor | None = None,
        aug_level: Tensor | None = None,
        guidance_scale: GuidanceScale | None = None,
        threshold: str | None = None,
        control_at: Callable[[float], object] | None = None,
        negative: TextEmbeddings | None = None,
    ) -> Denoiser:
        """(x_t, t) -> x_0_hat for these prompts; `low_res` is already augmented, by `aug_level`
        [b]. None: the stage's default.

        The rest as in `make_denoiser`.
        """
        c, dtype = self.config, self.net.out.weight.dtype
        read = cache(self.net.read)  # the same text is read once, and not in every step

        def network(x_t: Tensor, log_snr: Tensor, text: TextEmbeddings, control) -> Tensor:
            if control is None:  # which may change text before it is read
                text = read(text)
            # guidance doubles the batch
            copies = len(x_t) // len(low_res) if low_res is not None else 1
            conditioning = (
                (low_res.repeat(copies, 1, 1, 1).to(dtype), aug_level.repeat(copies))
                if low_res is not None
                else (None, None)
            )
            return self.net(x_t.to(dtype), log_snr, text, *conditioning, control=control).to(
                x_t.dtype
            )

        return make_denoiser(
            network,
            text.to(dtype),
            self.log_snr_of,
            c.prediction,
            self.default_guidance() if guidance_scale is None else guidance_scale,
            c.threshold if threshold is None else threshold,
            control_at,
            None if negative is None else negative.to(dtype),
        )


# ---------------------------------------------------------------- on disk
