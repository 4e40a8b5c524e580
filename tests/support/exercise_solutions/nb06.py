import math


def attend(q, k, v, mask, scale, dim=-1):
    scores = q @ k.transpose(-1, -2) * scale
    return scores.masked_fill(~mask, -math.inf).softmax(dim) @ v


def reference(q, k, v, mask):
    return attend(q, k, v, mask, q.shape[-1] ** -0.5)


def no_scale(q, k, v, mask):
    return attend(q, k, v, mask, 1.0)


def scaled_by_d(q, k, v, mask):
    return attend(q, k, v, mask, 1 / q.shape[-1])


def over_the_queries(q, k, v, mask):
    return attend(q, k, v, mask, q.shape[-1] ** -0.5, dim=-2)


def mask_ignored(q, k, v, mask):
    return attend(q, k, v, mask | True, q.shape[-1] ** -0.5)


def mask_after(q, k, v, mask):
    return ((q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) * mask) @ v


def mask_turned_round(q, k, v, mask):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(mask & ~mask.all(-1, keepdim=True), -math.inf).softmax(-1) @ v


INCORRECT_ANSWERS = [
    (no_scale, "not divided by sqrt(d)"),
    (scaled_by_d, "divided by d; expected sqrt(d)"),
    (over_the_queries, "is the softmax along that axis?"),
    (mask_ignored, "as if they were there"),
    (mask_after, "after the softmax"),
    (mask_turned_round, "Where the mask is False the score should be -inf"),
]
