import torch

from imagen_mini.diffusion.schedules import alpha_sigma


def wide(v):
    return v.reshape(-1, 1, 1, 1)


def reference(x_0_hat, gradient, log_snr, s):
    alpha, sigma = alpha_sigma(log_snr)
    return x_0_hat + s * wide(sigma**2 / alpha) * gradient


def with_factor(factor):
    def answer(x_0_hat, gradient, log_snr, s):
        return x_0_hat + factor(*alpha_sigma(log_snr), s) * gradient

    return answer


def first_level_for_all(x_0_hat, gradient, log_snr, s):
    alpha, sigma = alpha_sigma(log_snr[0])
    return x_0_hat + s * sigma**2 / alpha * gradient


INCORRECT_ANSWERS = [
    (with_factor(lambda a, b, s: -s * wide(b**2 / a)), "sign is wrong"),
    (with_factor(lambda a, b, s: s * wide(b)), "belongs to eps"),
    (with_factor(lambda a, b, s: s * wide(b / a)), "one sigma is missing"),
    (with_factor(lambda a, b, s: s * wide(b**2)), "alpha is missing"),
    (with_factor(lambda a, b, s: s * b**2 / a), "columns of pixels"),
    (with_factor(lambda a, b, s: wide(b**2 / a)), "scale s is not used"),
    (first_level_for_all, "image by image"),
]


def inside(maps, mask):
    return (maps * mask).sum((1, 2))


def energy_reference(maps, mask):
    return (1 - inside(maps, mask) / maps.sum(dim=(-2, -1))) ** 2


def energy_by_loop(maps, mask):
    return torch.stack([(1 - (m * mask).sum() / m.sum()) ** 2 for m in maps])


def without_gradient(maps, mask):
    with torch.no_grad():
        return energy_reference(maps, mask)


def denominator_detached(maps, mask):
    return (1 - inside(maps, mask) / maps.sum((1, 2)).detach()) ** 2


INCORRECT_ENERGIES = [
    (lambda maps, mask: 1 - inside(maps, mask) / maps.sum((1, 2)), "square is missing"),
    (lambda maps, mask: (inside(maps, mask) / maps.sum((1, 2))) ** 2, "grows as attention"),
    (lambda maps, mask: (1 - (maps * mask).sum() / maps.sum()) ** 2, "share one number"),
    (lambda maps, mask: (1 - inside(maps, mask) / mask.sum()) ** 2, "area of the box"),
    (lambda maps, mask: energy_reference(maps, mask).mean(), "a mean over the images"),
    (without_gradient, "no gradient passes"),
    (denominator_detached, "cut off from the graph"),
]
