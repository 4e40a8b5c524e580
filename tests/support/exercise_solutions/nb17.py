import torch
import torch.nn.functional as F


def reference(features):
    unit = F.normalize(features.flatten(2), dim=1)
    return unit.transpose(1, 2) @ unit


def dot_products(features):
    flat = features.flatten(2)
    return flat.transpose(1, 2) @ flat


def of_channels(features):
    unit = F.normalize(features.flatten(2), dim=2)
    return unit @ unit.transpose(1, 2)


def over_places(features):
    unit = F.normalize(features.flatten(2), dim=2)
    return unit.transpose(1, 2) @ unit


def distances(features):
    flat = features.flatten(2).transpose(1, 2)
    return torch.cdist(flat, flat)


INCORRECT_ANSWERS = [
    (dot_products, "dot products"),
    (of_channels, "it compares channels"),
    (over_places, "over all places"),
    (distances, "these are distances"),
]


def diagnosis_reference(source, edited, mask):
    changed = (source - edited).abs().amax(0) >= 1 / 128
    inside, outside = changed[mask].any(), changed[~mask].any()
    return {
        (False, False): "nothing changed",
        (True, False): "fine",
        (False, True): "mask inverted",
        (True, True): "outside not put back",
    }[bool(inside), bool(outside)]


def to_the_bit(source, edited, mask):
    changed = (source != edited).any(0)
    inside, outside = changed[mask].any(), changed[~mask].any()
    if inside and outside:
        return "outside not put back"
    return "fine" if inside else "mask inverted" if outside else "nothing changed"


INCORRECT_DIAGNOSES = [
    (to_the_bit, "less than 1 / 128 apart"),
    (lambda source, edited, mask: "good", "expected one of"),
    (lambda source, edited, mask: "fine", "expected 'nothing changed'"),
    (lambda s, e, mask: diagnosis_reference(s, e, ~mask), "expected 'fine'"),
]
