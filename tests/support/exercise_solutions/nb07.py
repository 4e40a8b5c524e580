def reference(cond, uncond, w):
    w = w.reshape(-1, 1, 1, 1)
    return uncond + w * (cond - uncond)


def other_convention(cond, uncond, w):
    w = w[:, None, None, None]
    return (1 + w) * cond - w * uncond


def swapped(cond, uncond, w):
    return reference(uncond, cond, w)


def by_column(cond, uncond, w):
    return w * cond + (1 - w) * uncond


def one_for_all(cond, uncond, w):
    return w[0] * cond + (1 - w[0]) * uncond


INCORRECT_ANSWERS = [
    (other_convention, "Ho and Salimans"),
    (swapped, "changed places"),
    (by_column, "columns of pixels"),
    (one_for_all, "image by image"),
]
