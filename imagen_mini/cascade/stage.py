"""One stage of the cascade: a U-Net together with the diffusion that it is trained for.

`loss` is what training minimises, `denoiser` is what sampling calls. Nothing in them is random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor, nn

from imagen_mini.cascade.config import StageConfig
from imagen_mini.diffusion.gaussian import q_sample, two_candidate_posterior_mean
from imagen_mini.diffusion.guidance import Denoiser, GuidanceScale, guidance_interval, make_denoiser
from imagen_mini.diffusion.losses import capped_v_weight, denoising_loss
from imagen_mini.diffusion.schedules import Schedule, cosine_log_snr, make_schedule
from imagen_mini.diffusion.timesteps import spaced_timesteps
from imagen_mini.models.control import AttentionControl
from imagen_mini.models.unet import UNet
from imagen_mini.text.encoder import TextEmbeddings


def augment_low_res(low_res: Tensor, aug_level: Tensor, noise: Tensor) -> Tensor:
    """Noise-conditioning augmentation: the low-resolution image after the forward process.

        augmented = alpha low_res + sigma noise,   log_snr = cosine schedule at t = aug_level

    The schedule is the unshifted cosine schedule of every stage. Training and sampling both call
    this function, on the same kind of image.

    Args:
        low_res: Images [b, 3, h, w] in [-1, 1].
        aug_level: One level for each image, [b] in [0, 1]. 0 leaves the image as it is, up to
            0.3 % of noise.
        noise: Standard normal noise [b, 3, h, w].

    Returns:
        The augmented images [b, 3, h, w].

    Reference: Imagen (Saharia et al., 2022), arXiv 2205.11487, Section 2.4.
    """
    return q_sample(low_res, noise, cosine_log_snr(aug_level))


class DiffusionStage(nn.Module):
    """One diffusion model of the cascade: a U-Net with its schedule and its prediction type.

    Args:
        config: The network, its diffusion, and the defaults of sampling.
    """

    def __init__(self, config: StageConfig):
        super().__init__()
        self.config = config
        self.net = UNet(config.unet)

    @property
    def is_super_resolution(self) -> bool:
        """Does this stage enlarge an image, or does it generate one from the text alone?"""
        return self.config.unet.low_res_size is not None

    @property
    def schedule(self) -> Schedule:
        """The stage's noise schedule: `stage.schedule(t)` is the log-SNR at time t."""
        return make_schedule(self.config.schedule, self.config.log_snr_shift)

    def timesteps(self, steps: int | None = None, timestep_spacing: str | None = None) -> Tensor:
        """The times at which a sampler stops, from 1 (noise) down to 0 (image).

        Args:
            steps: Number of steps, at least 1. None: the stage's `num_inference_steps`.
            timestep_spacing: "uniform", "log_snr", "karras" or "mixed". None: the stage's default.

        Returns:
            Times [steps + 1], falling, in float32, on the device of the stage.

        Raises:
            ValueError: Fewer than one step, or an unknown spacing.
        """
        device = self.net.out.weight.device
        return spaced_timesteps(
            timestep_spacing or self.config.timestep_spacing,
            self.config.num_inference_steps if steps is None else steps,
            self.schedule,
            device,
        )

    def default_guidance(self) -> GuidanceScale:
        """The stage's guidance scale: w, within the stage's guidance interval if it has one."""
        w, interval = self.config.guidance_scale, self.config.guidance_interval
        return w if interval is None or w == 1 else guidance_interval(w, *interval, self.schedule)

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
        noised_image: Tensor | None = None,
        alternative_x_0: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """The denoising loss of each example. Nothing here is random.

        Args:
            x_0: Images [b, 3, h, w] in [-1, 1].
            text: Their encoded captions, b rows.
            t: A time for each image, [b] in [0, 1].
            eps: Standard normal noise [b, 3, h, w].
            low_res: Super-resolution only: low-resolution images [b, 3, l, l] in [-1, 1].
            aug_level: Super-resolution only: augmentation levels [b] in [0, 1].
            low_res_noise: Super-resolution only: standard normal noise [b, 3, l, l].
            use_pooled: Where the pooled text is used, bool [b]. None: everywhere.
            weight: Weight of the squared error of x_0, as a function of the log-SNR.
            noised_image: Images [b, 3, h, w] to which the noise is added. None: x_0.
            alternative_x_0: Images [b, 3, h, w] as likely as x_0 for the same text. The target is
                then the posterior mean of the two, given x_t.
            known: Inpainting only: the known part of each image, as from `known_part`,
                [b, 4, h, w]. None: nothing is known.

        Returns:
            The weighted loss of each example, [b].

        Reference: Imagen (Saharia et al., 2022), arXiv 2205.11487, Eq. (1).
        """
        # 1. the forward process
        log_snr = self.schedule(t)
        x_t = q_sample(x_0 if noised_image is None else noised_image, eps, log_snr)
        # 2. the target
        if alternative_x_0 is not None:
            x_0 = two_candidate_posterior_mean(x_0, alternative_x_0, x_t, log_snr)
        # 3. the condition of super-resolution
        if low_res is not None:
            if aug_level is None or low_res_noise is None:
                raise ValueError("low_res needs aug_level [b] and low_res_noise of the same shape")
            low_res = augment_low_res(low_res, aug_level, low_res_noise)
        # 4. the prediction, and how far it is from the target
        seen = {} if known is None else {"known": known}  # few networks take it
        prediction = self.net(x_t, log_snr, text, low_res, aug_level, use_pooled=use_pooled, **seen)
        return denoising_loss(prediction, self.config.prediction, x_0, x_t, log_snr, weight)

    forward = loss  # what wrappers such as DistributedDataParallel call

    def denoiser(
        self,
        text: TextEmbeddings,
        low_res: Tensor | None = None,
        aug_level: Tensor | None = None,
        guidance_scale: GuidanceScale | None = None,
        threshold: str | None = None,
        control_at: Callable[[float], AttentionControl | None] | None = None,
        negative: TextEmbeddings | None = None,
        known: Tensor | None = None,
    ) -> Denoiser:
        """The denoiser (x_t, t) -> x_0_hat of this stage for given prompts.

        Args:
            text: Encoded prompts, b rows.
            low_res: Super-resolution only: images [b, 3, l, l], already augmented.
            aug_level: Super-resolution only: the level of that augmentation, [b] in [0, 1].
            guidance_scale: w, or a function of t that returns it; 1 is off. None: the stage's
                default.
            threshold: "none", "static" or "dynamic". None: the stage's default.
            control_at: The control of attention that is active at time t, or None.
            negative: What guidance leads away from, b rows. None: the null text.
            known: Inpainting only: the known part of each image, as from `known_part`,
                [1 or b, 4, h, w]. None: nothing is known.

        Returns:
            A function of x_t [b, 3, h, w] and of a time t, which returns x_0_hat [b, 3, h, w].

        Raises:
            ValueError: `low_res` without `aug_level`; a negative prompt without guidance.
        """
        c, dtype = self.config, self.net.out.weight.dtype
        # the text is prepared once for all steps, not in every one of them
        prepare_text = cache(self.net.prepare_text)

        def network(
            x_t: Tensor, log_snr: Tensor, text: TextEmbeddings, control: AttentionControl | None
        ) -> Tensor:
            # 1. a control may change the text before it is prepared
            context = prepare_text(text) if control is None else text
            # 2. guidance doubles the batch, and so its condition
            condition: tuple[Tensor | None, Tensor | None] = (None, None)
            if low_res is not None and aug_level is not None:
                copies = len(x_t) // len(low_res)
                condition = low_res.repeat(copies, 1, 1, 1).to(dtype), aug_level.repeat(copies)
            # 3. the network computes in the precision of its weights, the sampler in that of x_t
            seen = {}
            if known is not None:
                seen["known"] = known.repeat(len(x_t) // len(known), 1, 1, 1).to(dtype)
            out = self.net(x_t.to(dtype), log_snr, context, *condition, control=control, **seen)
            return out.to(x_t.dtype)

        if (low_res is None) != (aug_level is None):
            raise ValueError("low_res and aug_level go together: pass both, or neither")
        return make_denoiser(
            network,
            text.to(dtype),
            self.schedule,
            c.prediction,
            self.default_guidance() if guidance_scale is None else guidance_scale,
            c.threshold if threshold is None else threshold,
            control_at,
            None if negative is None else negative.to(dtype),
        )
