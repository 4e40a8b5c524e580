import math

from imagen_mini.diffusion.schedules import cosine_log_snr, cosine_t, resolution_shift


def reference(size, t):
    return cosine_t(cosine_log_snr(t) + resolution_shift(size))


def other_sign(size, t):
    return cosine_t(cosine_log_snr(t) - resolution_shift(size))


def deviation_only(size, t):
    return cosine_t(cosine_log_snr(t) + math.log(64 / size))


def log_snr_returned(size, t):
    return cosine_log_snr(t) + resolution_shift(size)


def shifted_twice(size, t):
    return cosine_t(cosine_log_snr(t, resolution_shift(size)) + resolution_shift(size))


def for_256_only(size, t):
    return cosine_t(cosine_log_snr(t) + resolution_shift(256))


INCORRECT_ANSWERS = [
    (other_sign, "needs more of it"),
    (deviation_only, "has its square"),
    (log_snr_returned, "These are log-SNRs"),
    (shifted_twice, "add the shift"),
    (for_256_only, "nothing to average"),
]
