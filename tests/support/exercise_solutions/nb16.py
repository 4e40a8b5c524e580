import torch

from imagen_mini.diffusion.schedules import alpha_sigma


def make(ask="s", use="estimate", alpha=True, fade=True, skip=0):
    def invert(denoise, x_0, times, schedule):
        x, rising = x_0, times.flip(0)
        for s, t in list(zip(rising[:-1], rising[1:]))[: len(times) - 1 - skip]:
            (alpha_s, sigma_s), (alpha_t, sigma_t) = (alpha_sigma(schedule(v)) for v in (s, t))
            x_0_hat = denoise(x, s if ask == "s" else t)
            eps = (x - (alpha_s if alpha else 1) * x_0_hat) / sigma_s
            kept = x_0_hat if use == "estimate" else x_0
            x = alpha_t * kept + sigma_t * eps if fade else x + (sigma_t - sigma_s) * eps
        return x

    return invert


reference = make()


def downwards(denoise, x_0, times, schedule):
    return make()(denoise, x_0, times.flip(0), schedule)


def with_fresh_noise(denoise, x_0, times, schedule):
    return reference(denoise, x_0, times, schedule) + 0.1 * torch.randn(x_0.shape)


INCORRECT_ANSWERS = [
    (make(ask="t"), "ask it at the time that x is at"),
    (downwards, "that is sampling"),
    (with_fresh_noise, "fresh noise"),
    (make(use="image"), "not the given image"),
    (make(alpha=False), "the alpha is missing"),
    (make(fade=False), "did not fade"),
    (make(skip=1), "up to the last time but 1"),
]


def diagnosis_reference():
    return {"A": "fresh noise", "B": "few steps", "C": "guidance", "D": "another caption"}


INCORRECT_DIAGNOSES = [
    (lambda: {"A": "guidance"}, "with the keys"),
    (lambda: dict.fromkeys("ABCD", "guidance"), "names one of them twice"),
    (lambda: diagnosis_reference() | {"A": "noise"}, "none of the causes"),
    (lambda: diagnosis_reference() | {"A": "guidance", "C": "fresh noise"}, "2 of 4"),
]
