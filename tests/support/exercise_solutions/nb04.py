def parts(emb, weight, bias):
    return [part[:, :, None, None] for part in (emb @ weight.T + bias).chunk(2, dim=1)]


def reference(h, emb, weight, bias):
    scale, shift = parts(emb, weight, bias)
    return h * (1 + scale) + shift


def without_one(h, emb, weight, bias):
    scale, shift = parts(emb, weight, bias)
    return h * scale + shift


def halves_swapped(h, emb, weight, bias):
    shift, scale = parts(emb, weight, bias)
    return h * (1 + scale) + shift


def without_bias(h, emb, weight, bias):
    return reference(h, emb, weight, 0 * bias)


def shifted_first(h, emb, weight, bias):
    scale, shift = parts(emb, weight, bias)
    return (h + shift) * (1 + scale)


def every_second(h, emb, weight, bias):
    out = emb @ weight.T + bias
    return h * (1 + out[:, ::2, None, None]) + out[:, 1::2, None, None]


INCORRECT_ANSWERS = [
    (without_one, "The factor is 1 + s"),
    (halves_swapped, "second half is the shift"),
    (without_bias, "A linear layer"),
    (shifted_first, "Scale first"),
    (every_second, "the same at every place"),
]
