import torch


def scale(x, percentile):
    return torch.quantile(x.abs().flatten(1), percentile, dim=1).reshape(-1, 1, 1, 1)


def reference(x_0_hat, percentile=0.995):
    s = scale(x_0_hat, percentile).clamp(min=1)
    return x_0_hat.clamp(-s, s) / s


def over_the_batch(x_0_hat, percentile=0.995):
    s = torch.quantile(x_0_hat.abs(), percentile).clamp(min=1)
    return x_0_hat.clamp(-s, s) / s


def no_max(x_0_hat, percentile=0.995):
    s = scale(x_0_hat, percentile)
    return x_0_hat.clamp(-s, s) / s


def signed(x_0_hat, percentile=0.995):
    s = torch.quantile(x_0_hat.flatten(1), percentile, dim=1).clamp(min=1).reshape(-1, 1, 1, 1)
    return x_0_hat.clamp(-s, s) / s


def not_divided(x_0_hat, percentile=0.995):
    s = scale(x_0_hat, percentile).clamp(min=1)
    return x_0_hat.clamp(-s, s)


def static(x_0_hat, percentile=0.995):
    return x_0_hat.clamp(-1, 1)


INCORRECT_ANSWERS = [
    (over_the_batch, "not over the batch"),
    (no_max, "no s below 1"),
    (signed, "percentile of |x_0_hat|"),
    (not_divided, "do not divide"),
    (static, "static thresholding"),
]
