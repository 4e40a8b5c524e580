from imagen_mini.diffusion.schedules import alpha_sigma, cosine_log_snr


def reference(low_res, aug_level, noise):
    alpha, sigma = alpha_sigma(cosine_log_snr(aug_level))
    return alpha.reshape(-1, 1, 1, 1) * low_res + sigma.reshape(-1, 1, 1, 1) * noise


def not_scaled(low_res, aug_level, noise):
    _, sigma = alpha_sigma(cosine_log_snr(aug_level))
    return low_res + sigma.reshape(-1, 1, 1, 1) * noise


def level_is_sigma(low_res, aug_level, noise):
    sigma = aug_level.reshape(-1, 1, 1, 1)
    return (1 - sigma**2).sqrt() * low_res + sigma * noise


def from_zero_to_one(low_res, aug_level, noise):
    return reference((low_res + 1) / 2, aug_level, noise)


def clamped(low_res, aug_level, noise):
    return reference(low_res, aug_level, noise).clamp(-1, 1)


def one_level_for_all(low_res, aug_level, noise):
    return reference(low_res, aug_level[:1].expand(len(low_res)), noise)


def signs_exchanged(low_res, aug_level, noise):
    alpha, sigma = alpha_sigma(-cosine_log_snr(aug_level))
    return alpha.reshape(-1, 1, 1, 1) * low_res + sigma.reshape(-1, 1, 1, 1) * noise


INCORRECT_ANSWERS = [
    (not_scaled, "unscaled"),
    (level_is_sigma, "not a deviation"),
    (from_zero_to_one, "[-1, 1]"),
    (clamped, "not clamped"),
    (one_level_for_all, "expected each its own"),
    (signs_exchanged, "alpha is 1 and sigma is 0"),
]
