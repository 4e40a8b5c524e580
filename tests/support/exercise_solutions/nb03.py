import torch


def noisy(x_0, t, eps, schedule):
    log_snr = schedule(t)
    alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
    return log_snr, alpha[:, None, None, None] * x_0 + sigma[:, None, None, None] * eps


def reference(net, x_0, text, t, eps, schedule, weight):
    log_snr, x_t = noisy(x_0, t, eps, schedule)
    return weight(log_snr) * (net(x_t, log_snr, text) - x_0).square().mean((1, 2, 3))


def variances_for_amplitudes(net, x_0, text, t, eps, schedule, weight):
    log_snr = schedule(t)
    share = torch.sigmoid(log_snr)[:, None, None, None]
    return weight(log_snr) * (
        net(share * x_0 + (1 - share) * eps, log_snr, text) - x_0
    ).square().mean((1, 2, 3))


def told_the_time(net, x_0, text, t, eps, schedule, weight):
    log_snr, x_t = noisy(x_0, t, eps, schedule)
    return weight(log_snr) * (net(x_t, t, text) - x_0).square().mean((1, 2, 3))


def without_weight(net, x_0, text, t, eps, schedule, weight):
    log_snr, x_t = noisy(x_0, t, eps, schedule)
    return (net(x_t, log_snr, text) - x_0).square().mean((1, 2, 3))


def against_the_noise(net, x_0, text, t, eps, schedule, weight):
    log_snr, x_t = noisy(x_0, t, eps, schedule)
    return weight(log_snr) * (net(x_t, log_snr, text) - eps).square().mean((1, 2, 3))


def one_for_the_batch(net, x_0, text, t, eps, schedule, weight):
    return reference(net, x_0, text, t, eps, schedule, weight).mean()


def summed(net, x_0, text, t, eps, schedule, weight):
    return reference(net, x_0, text, t, eps, schedule, weight) * x_0[0].numel()


INCORRECT_ANSWERS = [
    (variances_for_amplitudes, "alpha = sqrt(sigmoid(log_snr))"),
    (told_the_time, "not the time"),
    (without_weight, "without its weight"),
    (against_the_noise, "predicts x_0"),
    (one_for_the_batch, "should have the shape [3]"),
    (summed, "Take the mean"),
]
