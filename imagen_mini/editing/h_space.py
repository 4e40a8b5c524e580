"""h-space: the features in the middle of the U-Net, where directions have a meaning.

    h        the features after the last residual block of the middle, [b, c, g, g]
    delta_h  a direction: the same shift for every image

Shifting h shifts the estimate x_0_hat in what the image shows. The noise that is put back has to
stay that of the unshifted network, or the two shifts cancel: the asymmetric step.

    x_s = alpha_s x_0_hat(x_t | h + delta_h) + sigma_s eps_hat(x_t | h)

Directions come from three places here: the difference that two prompts make (`paired_direction`), a
loss (`optimize_direction`), and the network alone, without any label (`jacobian_directions`).

    site = middle_site(stage.net.block_sites)
    shifted = lambda delta: stage.denoiser(text, control_at=lambda t: ShiftFeatures(site, delta))
    denoise = asymmetric_denoiser(shifted(2 * direction), stage.denoiser(text), times, schedule)

Reference: Diffusion Models Already Have a Semantic Latent Space (Kwon et al., 2023), arXiv
2210.10960.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from imagen_mini.diffusion.guidance import Denoiser, guide_denoisers
from imagen_mini.diffusion.guidance_rules import cfg_plus_plus_scale
from imagen_mini.diffusion.samplers import SamplingState, sample
from imagen_mini.diffusion.schedules import ScheduleFunction
from imagen_mini.models.control import AttentionControl, BlockSite


def middle_site(sites: Sequence[BlockSite]) -> BlockSite:
    """The last residual block of the middle, whose output is h.

    Args:
        sites: the blocks of a network, `UNet.block_sites`.

    Raises:
        ValueError: the network has no block in its middle.
    """
    middle = [site for site in sites if site.place_in_unet == "mid"]
    if not middle:
        raise ValueError(
            "this network has no residual block in its middle (mid_blocks=0), hence no h-space"
        )
    return middle[-1]


# ---------------------------------------------------------------- controls


@dataclass(frozen=True)
class ShiftFeatures(AttentionControl):
    """A control that adds a direction to the features of one block.

    Attributes:
        site: The block.
        delta: What is added, [b or 1, c, g, g].
    """

    site: BlockSite
    delta: Tensor

    def needs_features(self, site: BlockSite) -> bool:
        return site == self.site

    def modify_features(self, site: BlockSite, x: Tensor) -> Tensor:
        return x + self.delta.to(x)


@dataclass(frozen=True)
class ReadFeatures(AttentionControl):
    """A control that changes nothing and keeps the features of one block.

    Attributes:
        site: The block.
        found: The features [b, c, g, g] of every call, in order.
    """

    site: BlockSite
    found: list[Tensor] = field(default_factory=list)

    def needs_features(self, site: BlockSite) -> bool:
        return site == self.site

    def modify_features(self, site: BlockSite, x: Tensor) -> Tensor:
        self.found.append(x)
        return x


# ---------------------------------------------------------------- the asymmetric step


def asymmetric_denoiser(
    shifted: Denoiser, plain: Denoiser, timesteps: Tensor, schedule: ScheduleFunction
) -> Denoiser:
    """A denoiser with which a DDIM step is asymmetric: x_0_hat is shifted, the noise is not.

    A DDIM step is linear in x_0_hat. With w(t) = 1 / (1 - (sigma_s / alpha_s) / (sigma_t /
    alpha_t)), the step with

        x_0_hat = plain(x_t) + w(t) (shifted(x_t) - plain(x_t))

    is alpha_s shifted(x_t) + sigma_s eps_hat of plain(x_t). So it is CFG++ between the two
    denoisers, at strength 1, and no sampler has to know of it.

    Args:
        shifted: (x_t, t) -> x_0_hat with the direction.
        plain: the same without it.
        timesteps: those of the sampler, [steps + 1], falling.
        schedule: t -> log-SNR.

    Returns:
        A function (x_t, t) -> x_0_hat for the "ddim" sampler without fresh noise.

    Reference:
        Diffusion Models Already Have a Semantic Latent Space (Kwon et al., 2023), arXiv 2210.10960:
        the asymmetric reverse process.
    """
    scale = cfg_plus_plus_scale(1.0, timesteps, schedule)
    return guide_denoisers(shifted, plain, scale)


def sample_with_direction(
    shifted: Denoiser,
    plain: Denoiser,
    x_T: Tensor,
    timesteps: Tensor,
    schedule: ScheduleFunction,
    noise: Callable[[int], Tensor],
    edit_until: float = 0.5,
    boost_from: float = 0.8,
) -> Iterator[SamplingState]:
    """Sample along a direction: asymmetric steps, then plain ones, at last with fresh noise.

    The first steps decide what the image shows, so the direction acts there. The last ones repair
    what it did to the details: with fresh noise (eta = 1) errors are forgotten.

    Args:
        shifted: (x_t, t) -> x_0_hat with the direction.
        plain: the same without it.
        x_T: noise, [b, c, h, w]; or that of an inversion, to edit a given image.
        timesteps: [steps + 1], falling.
        schedule: t -> log-SNR.
        noise: step -> fresh noise, asked in the last interval.
        edit_until: the share of the steps that are asymmetric, from the first on (default: 0.5).
        boost_from: the share of the steps after which noise is added (default: 0.8). 1: never.

    Yields:
        A state after every step.

    Raises:
        ValueError: not 0 <= edit_until <= boost_from <= 1.

    Reference:
        Kwon et al. (2023), arXiv 2210.10960: its editing interval ends at t_edit, and its quality
        boosting begins at t_boost. There both times are found from LPIPS.
    """
    if not 0 <= edit_until <= boost_from <= 1:
        raise ValueError(
            f"edit_until {edit_until}, boost_from {boost_from}; expected 0 <= edit_until <= "
            "boost_from <= 1"
        )
    steps = len(timesteps) - 1
    ends = [0, round(edit_until * steps), round(boost_from * steps), steps]
    asymmetric = asymmetric_denoiser(shifted, plain, timesteps, schedule)
    x = x_T
    for denoise, eta, start, end in zip(
        (asymmetric, plain, plain), (0.0, 0.0, 1.0), ends[:-1], ends[1:]
    ):
        for state in sample(
            denoise,
            x,
            timesteps[start : end + 1],
            schedule,
            "ddim",
            partial(_later, noise, start),
            eta=eta,
        ):
            x = state.x
            yield SamplingState(start + state.step, steps, state.t, state.s, x, state.x_0_hat)


def _later(noise: Callable[[int], Tensor], start: int, step: int) -> Tensor:
    """The noise of a step that is counted from `start`."""
    return noise(start + step)


# ---------------------------------------------------------------- directions


def paired_direction(
    read: Callable[[Tensor, Tensor, int], Tensor], x_t: Tensor, t: Tensor
) -> Tensor:
    """The direction between two prompts: how h differs between them, on average over noisy images.

        delta_h = mean over rows of (h(x_t, second prompt) - h(x_t, first prompt))

    Args:
        read: (x_t, t, which) -> h [b, c, g, g], with the first (0) or the second prompt (1).
        x_t: noisy images at t, [b, 3, h, w]; the same for both.
        t: a scalar.

    Returns:
        [1, c, g, g].
    """
    return (read(x_t, t, 1) - read(x_t, t, 0)).mean(0, keepdim=True)


def optimize_direction(
    shifted: Callable[[Tensor], Denoiser],
    plain: Denoiser,
    loss: Callable[[Tensor], Tensor],
    noisy: Sequence[tuple[Tensor, Tensor]],
    shape: Sequence[int],
    steps: int = 20,
    rate: float = 0.1,
    keep: float = 0.1,
) -> Tensor:
    """The direction that lowers a loss of the estimate and changes it little otherwise.

        minimise over delta_h:   loss(x_0_hat(h + delta_h)) + keep mean |x_0_hat(h + delta_h) -
                                 x_0_hat(h)|

    by Adam, with one noisy batch in each step.

    Args:
        shifted: delta [1, c, g, g] -> the denoiser with it, differentiable in delta.
        plain: the denoiser without it.
        loss: x_0_hat -> [b], for example a classifier's.
        noisy: batches (x_t [b, 3, h, w], t scalar), used in turn.
        shape: c, g, g.
        steps: of Adam (default: 20).
        rate: its learning rate (default: 0.1).
        keep: weight of the second term (default: 0.1).

    Returns:
        [1, c, g, g].

    Raises:
        ValueError: there are no noisy images.

    Reference:
        Kwon et al. (2023), arXiv 2210.10960. Differs from the paper: one shift for all images and
        times instead of a small network, and a loss of one's own instead of CLIP's.
    """
    if not noisy:
        raise ValueError("no noisy images to find a direction on; give at least one batch (x_t, t)")
    x_t, _ = noisy[0]
    delta = torch.zeros(1, *shape, device=x_t.device, dtype=x_t.dtype, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=rate)
    for step in range(steps):
        x_t, t = noisy[step % len(noisy)]
        with torch.no_grad():
            before = plain(x_t, t)
        with torch.enable_grad():
            after = shifted(delta)(x_t, t)
            total = loss(after).mean() + keep * (after - before).abs().mean()
        (delta.grad,) = torch.autograd.grad(total, delta)
        adam.step()
    return delta.detach()


def jacobian_directions(
    function: Callable[[Tensor], Tensor],
    at: Tensor,
    count: int = 3,
    iterations: int = 10,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The directions of h that change the output most, by subspace iteration on its Jacobian.

        J = d function / d h;   V <- orthonormal basis of J^T J V

    The columns converge to the right singular vectors of J with the largest singular values. J is
    never formed: J v and J^T u are a derivative along v and a gradient.

    Args:
        function: h [...] -> output [...], for example delta -> x_0_hat(x_t | h + delta) of one
            image, at delta = 0.
        at: where J is taken.
        count: how many directions (default: 3).
        iterations: of the subspace (default: 10).
        seed: of where it starts (default: 0).

    Returns:
        The directions [count, *at.shape], of length 1 and orthogonal to each other, and their
        singular values [count], falling.

    Raises:
        ValueError: more directions than h has numbers, or none, or no iteration.

    Reference:
        Discovering Interpretable Directions in the Semantic Latent Space of Diffusion Models (Haas
        et al., 2023), arXiv 2303.11073, on the Jacobian of the denoiser.
    """
    if not 1 <= count <= at.numel():
        raise ValueError(f"count {count}; expected 1 to {at.numel()}, the numbers that h has")
    if iterations < 1:
        raise ValueError(f"iterations {iterations}; expected at least one")
    start = torch.randn(at.numel(), count, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(start.to(at)).Q
    # attention is computed plainly: fused kernels of GPUs have no second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        h = at.detach().requires_grad_()
        output = function(h)
        # J^T u is linear in u, so its own gradient along v is J v
        u = torch.zeros_like(output, requires_grad=True)
        (pulled,) = torch.autograd.grad(output, h, u, create_graph=True)
        for _ in range(iterations):
            # 1. J v for each column, then J^T of that
            columns = []
            for v in basis.T:
                (pushed,) = torch.autograd.grad(pulled, u, v.reshape(at.shape), retain_graph=True)
                (back,) = torch.autograd.grad(output, h, pushed, retain_graph=True)
                columns.append(back.flatten())
            # 2. an orthonormal basis of the new subspace, turned to the singular vectors
            left, singular, _ = torch.linalg.svd(torch.stack(columns, 1), full_matrices=False)
            basis = left
    return basis.T.reshape(count, *at.shape).detach(), singular.sqrt().detach()
