def reference(x_t, eps_hat, alpha_t, sigma_t, alpha_s, sigma_s):
    x_0_hat = ((x_t - sigma_t * eps_hat) / alpha_t).clamp(-1, 1)
    eps = (x_t - alpha_t * x_0_hat) / sigma_t
    return alpha_s * x_0_hat + sigma_s * eps


def keeps_eps(x_t, eps_hat, alpha_t, sigma_t, alpha_s, sigma_s):
    return alpha_s * ((x_t - sigma_t * eps_hat) / alpha_t).clamp(-1, 1) + sigma_s * eps_hat


def swapped(x_t, eps_hat, alpha_t, sigma_t, alpha_s, sigma_s):
    return reference(x_t, eps_hat, alpha_t, sigma_t, sigma_s, alpha_s)


def not_clipped(x_t, eps_hat, alpha_t, sigma_t, alpha_s, sigma_s):
    return alpha_s * (x_t - sigma_t * eps_hat) / alpha_t + sigma_s * eps_hat


def old_noise(x_t, eps_hat, alpha_t, sigma_t, alpha_s, sigma_s):
    return reference(x_t, eps_hat, alpha_t, sigma_t, alpha_s, sigma_t)


def new_alpha_in_x_0(x_t, eps_hat, alpha_t, sigma_t, alpha_s, sigma_s):
    return reference(x_t, eps_hat, alpha_s, sigma_t, alpha_s, sigma_s)


INCORRECT_ANSWERS = [
    (keeps_eps, "Compute eps anew"),
    (swapped, "changed places"),
    (not_clipped, "do not clip"),
    (old_noise, "keeps the size it had at t"),
    (new_alpha_in_x_0, "x_0_hat = (x_t - sigma_t eps_hat) / alpha_t"),
]
