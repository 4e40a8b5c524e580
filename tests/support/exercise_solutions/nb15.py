import hashlib
import random


def plain(caption):
    return " ".join(caption.lower().split())


def groups_of(captions, key=plain):
    groups = {}
    for i, caption in enumerate(captions):
        groups.setdefault(key(caption), []).append(i)
    return groups


def by_groups(groups, order, room):
    chosen = []
    for key in order:
        if len(chosen) + len(groups[key]) <= room:
            chosen += groups[key]
    return chosen


def reference(captions, share):
    groups = groups_of(captions)
    order = sorted(groups, key=lambda c: hashlib.sha256(c.encode()).hexdigest())
    return by_groups(groups, order, share * len(captions))


def by_the_alphabet(captions, share):
    groups = groups_of(captions)
    return by_groups(groups, sorted(groups), share * len(captions))


def images_at_random(captions, share):
    rng = random.Random(0)
    return rng.sample(range(len(captions)), int(share * len(captions)))


def capitals_matter(captions, share):
    groups = groups_of(captions, key=lambda c: c)
    return by_groups(groups, sorted(groups), share * len(captions))


def in_the_order_of_the_folder(captions, share):
    groups = groups_of(captions)
    return by_groups(groups, list(groups), share * len(captions))


def by_hash(captions, share):
    groups = groups_of(captions)
    return by_groups(groups, sorted(groups, key=lambda c: hash(c)), share * len(captions))


def by_the_first_image_if_there_are_several(captions, share):
    groups = groups_of(captions)
    order = sorted(groups) if len(groups) == len(captions) else list(groups)
    return by_groups(groups, order, share * len(captions))


def too_many(captions, share):
    groups, chosen = groups_of(captions), []
    for key in sorted(groups):
        if len(chosen) < share * len(captions):
            chosen += groups[key]
    return chosen + groups[max(groups)]


def a_share_of_captions(captions, share):
    groups = groups_of(captions)
    return sorted(groups)[: int(share * len(groups))]


def twice(captions, share):
    return reference(captions, share) * 2


def nothing(captions, share):
    return []


INCORRECT_ANSWERS = [
    (images_at_random, "on both sides"),
    (capitals_matter, "on both sides"),
    (in_the_order_of_the_folder, "in one order you hold out"),
    (by_the_first_image_if_there_are_several, "in one order you hold out"),
    (by_hash, "another one in each session"),
    (too_many, "expected at most"),
    (a_share_of_captions, "Error"),
    (twice, "expected different indices"),
    (nothing, "expected 3"),
]
