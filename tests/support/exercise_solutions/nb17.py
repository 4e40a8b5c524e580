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


def diagnose(apart, mask, any_of=torch.any):
    """The finding, of the differences [h, w] between an image and its edit."""
    changed = apart >= 1 / 128
    inside, outside = any_of(changed[mask]), any_of(changed[~mask])
    return {
        (False, False): "nothing changed",
        (True, False): "fine",
        (False, True): "mask inverted",
        (True, True): "outside not put back",
    }[bool(inside), bool(outside)]


def diagnosis_reference(source, edited, mask):
    return diagnose((source - edited).abs().amax(0), mask)


def to_the_bit(source, edited, mask):
    return diagnose((source != edited).any(0).float(), mask)


def all_pixels(source, edited, mask):
    return diagnose((source - edited).abs().amax(0), mask, torch.all)


def most_pixels(source, edited, mask):
    majority = lambda changed: changed.float().mean() > 0.5
    return diagnose((source - edited).abs().amax(0), mask, majority)


def red_alone(source, edited, mask):
    return diagnose((source - edited)[0].abs(), mask)


def mean_of_channels(source, edited, mask):
    return diagnose((source - edited).mean(0).abs(), mask)


INCORRECT_DIAGNOSES = [
    (to_the_bit, "less than 1 / 128 apart"),
    (all_pixels, "expected 'fine': inside of the mask 1 of 9"),
    (most_pixels, "expected 'fine': inside of the mask 1 of 9"),
    (red_alone, "expected 'outside not put back'"),
    (mean_of_channels, "expected 'mask inverted'"),
    (lambda source, edited, mask: "good", "expected one of"),
    (lambda source, edited, mask: "fine", "expected 'nothing changed'"),
    (lambda s, e, mask: diagnosis_reference(s, e, ~mask), "expected 'fine'"),
]
