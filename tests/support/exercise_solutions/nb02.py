import torch

from imagen_mini.diffusion.schedules import alpha_sigma


def reference(x_t, x_0_hat, log_snr_t, log_snr_s):
    alpha_t, sigma_t = alpha_sigma(log_snr_t)
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    eps_hat = (x_t - alpha_t * x_0_hat) / sigma_t
    return alpha_s * x_0_hat + sigma_s * eps_hat


def no_noise(x_t, x_0_hat, log_snr_t, log_snr_s):
    return alpha_sigma(log_snr_s)[0] * x_0_hat


def image_not_scaled(x_t, x_0_hat, log_snr_t, log_snr_s):
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    return alpha_s * x_0_hat + sigma_s * (x_t - x_0_hat) / alpha_sigma(log_snr_t)[1]


def x_t_for_noise(x_t, x_0_hat, log_snr_t, log_snr_s):
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    return alpha_s * x_0_hat + sigma_s * x_t


def still_at_t(x_t, x_0_hat, log_snr_t, log_snr_s):
    return reference(x_t, x_0_hat, log_snr_t, log_snr_t)


def squares(x_t, x_0_hat, log_snr_t, log_snr_s):
    alpha_t, sigma_t = alpha_sigma(log_snr_t)
    eps_hat = (x_t - alpha_t * x_0_hat) / sigma_t
    return torch.sigmoid(log_snr_s) * x_0_hat + torch.sigmoid(-log_snr_s) * eps_hat


def fresh_noise(x_t, x_0_hat, log_snr_t, log_snr_s):
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    return alpha_s * x_0_hat + sigma_s * torch.randn_like(x_t)


def times_swapped(x_t, x_0_hat, log_snr_t, log_snr_s):
    return reference(x_t, x_0_hat, log_snr_s, log_snr_t)


INCORRECT_ANSWERS = [
    (no_noise, "The noise is missing"),
    (image_not_scaled, "take that away"),
    (x_t_for_noise, "x_t is not the noise"),
    (still_at_t, "x_t again"),
    (squares, "not squared"),
    (fresh_noise, "the noise that x_0_hat leaves in x_t"),
    (times_swapped, "both parts as at s"),
]
