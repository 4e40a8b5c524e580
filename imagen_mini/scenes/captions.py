"""Captions: what is said of a scene, how it is put in words, and how words are parsed again.

Three functions, tied by a test: `describe(scene) -> Description`,
`caption_from(description) -> Caption` and `parse_caption(text) -> Description`. A `Description`
states only some of what a `Scene` decides; `Description.fits(scene)` judges every image.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    LIGHTS,
    MATERIALS,
    RELATIONS,
    SHAPES,
    SIZES,
    SURFACES,
    TEXTURES,
    Scene,
    SceneObject,
    relation,
    unambiguous_relation,
)

NUMBERS = ("no", "one", "two", "three", "four", "five")
PHRASES = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}

# Words and phrases that never occur in a training caption of the diffusion stages. The text
# encoder, like a large language model, has read them in text.
HELD_OUT_PHRASES = {
    "left of": "on the left side of",
    "right of": "on the right side of",
    "above": "on top of",
    "below": "beneath",
}
RARE_WORDS = {
    "crimson": "red",
    "azure": "blue",
    "emerald": "green",
    "violet": "purple",
    "golden": "yellow",
    "rose": "pink",
    "disc": "circle",
    "hoop": "ring",
    "box": "square",
    "pentagram": "star",
    "huge": "large",
    "tiny": "small",
    "banded": "striped",
    "spotted": "dotted",
    "chequered": "checkered",
    "plain": "solid",
    "ivory": "white",
    "ebony": "black",
}


@dataclass(frozen=True)
class Vocabulary:
    """The words of a world's captions, beside shapes, colours, sizes, textures and relations.

    Args:
        backgrounds: Names of the backgrounds.
        materials: Names of the materials; none in the world `scenes`.
        lights: Names of the sides that light comes from; none in the world `scenes`.
        rare_words: Rare word -> the common word that training captions have for it.
        spoken: Another spelling of a background -> its name, such as "wooden" -> "wood".
    """

    backgrounds: tuple[str, ...]
    materials: tuple[str, ...]
    lights: tuple[str, ...]
    rare_words: Mapping[str, str]
    spoken: Mapping[str, str]


SCENES_VOCABULARY = Vocabulary(tuple(BACKGROUNDS), (), (), RARE_WORDS, {})
STUDIO_VOCABULARY = Vocabulary(
    tuple(SURFACES),
    MATERIALS,
    LIGHTS,
    {rare: word for rare, word in RARE_WORDS.items() if word not in BACKGROUNDS}
    | {
        "dull": "matte",
        "glossy": "shiny",
        "chrome": "metallic",
        "timber": "wood",
        "cloth": "linen",
        "shale": "slate",
    },
    {adjective: name for name, adjective in SURFACES.items()},
)


@dataclass(frozen=True)
class ObjectDescription:
    """An object as far as a caption describes it: None leaves an attribute open."""

    shape: str
    color: str | None = None
    size: str | None = None
    texture: str | None = None
    material: str | None = None

    def fits(self, o: SceneObject) -> bool:
        """Return True if nothing stated contradicts the object.

        An object whose texture or material is unknown fits every one.
        """
        return (
            self.shape == o.shape
            and self.color in (None, o.color)
            and self.size in (None, o.size)
            and (o.texture is None or self.texture in (None, o.texture))
            and (o.material is None or self.material in (None, o.material))
        )


@dataclass(frozen=True)
class Description:
    """What a caption states: all objects of the image, and possibly a relation and a background.

    Args:
        objects: All objects of the image.
        relation: Where the first object lies with respect to the second: one of `RELATIONS`, or
            None (default). It needs exactly two objects.
        background: One of `BACKGROUNDS` or `SURFACES`, or None (default).
        light: One of `LIGHTS`, or None (default).

    Raises:
        ValueError: for an unknown relation, or one with other than two objects.
    """

    objects: tuple[ObjectDescription, ...]
    relation: str | None = None
    background: str | None = None
    light: str | None = None

    def __post_init__(self):
        if self.relation is not None and (self.relation not in RELATIONS or len(self.objects) != 2):
            raise ValueError(
                f"a relation needs two objects and one of {RELATIONS}; got {self.relation!r} "
                f"with {len(self.objects)} objects"
            )

    def assign(self, scene: Scene) -> tuple[SceneObject, ...] | None:
        """Assign an object of the scene to each described object.

        Returns:
            The scene's objects in the order of `self.objects`, or None if the scene is not as
            described. One object too many is incorrect, too.
        """
        if len(scene.objects) != len(self.objects) or self.background not in (
            None,
            scene.background,
        ):
            return None
        if scene.light is not None and self.light not in (None, scene.light):
            return None
        for objects in itertools.permutations(scene.objects):
            if all(t.fits(o) for t, o in zip(self.objects, objects)) and (
                self.relation is None or relation(*objects) == self.relation
            ):
                return objects
        return None

    def fits(self, scene: Scene | None) -> bool:
        """Return True if the scene shows what is described; None (not parsed) never does."""
        return scene is not None and self.assign(scene) is not None


@dataclass(frozen=True)
class Word:
    """One word of a caption: its characters `text[start:end]`, the indices of the objects that it
    describes, and the role that it plays for them.
    """

    text: str
    start: int
    end: int
    objects: tuple[int, ...]
    # color, shape, size, texture, material, relation, background, light, number or other
    role: str


@dataclass(frozen=True)
class Caption:
    """A caption with its words and with the description that it expresses."""

    text: str
    words: tuple[Word, ...]
    description: Description


# ---------------------------------------------------------------- scene -> description

# probability of stating each attribute, for all objects of a scene together
ATTRIBUTE_PROB = {"color": 0.8, "size": 0.4, "texture": 0.5}
# probability of deciding separately for each object instead: only such captions teach which object
# a word belongs to
INDEPENDENT_PROB = 0.3
# probability of stating an unambiguous relation. With more, networks bind shapes to places instead
# of to colours
RELATION_PROB = 0.4
BACKGROUND_PROB = 0.4
# the same for what only the world `studio` has
MATERIAL_PROB = 0.5
LIGHT_PROB = 0.4


def describe(scene: Scene, rng: random.Random) -> Description:
    """Choose what a caption states about a scene.

    Every object is named by its shape, mostly by its colour, and sometimes by size, texture and
    material. A relation is stated only if it is unambiguous. Objects of the same shape and colour
    are often counted, and then described in the same way.

    Args:
        scene: The scene; material and light are stated only if it has them.
        rng: Source of randomness.

    Returns:
        A description that fits the scene.
    """
    # 1. Which attributes are stated.
    objects = list(scene.objects)
    rng.shuffle(objects)
    probabilities = ATTRIBUTE_PROB
    if any(o.material is not None for o in objects):
        probabilities = ATTRIBUTE_PROB | {"material": MATERIAL_PROB}
    said = {key: rng.random() < often for key, often in probabilities.items()}
    said_of = [said] * len(objects)
    alike = len(objects) > 1 and len({(o.shape, o.color) for o in objects}) == 1
    # keep only what holds for all of them, so that they can be counted
    if alike and rng.random() < 0.75:
        said_of = [
            {
                key: value and len({getattr(o, key) for o in objects}) == 1
                for key, value in said.items()
            }
        ] * len(objects)
    elif rng.random() < INDEPENDENT_PROB:
        said_of = [{key: rng.random() < 0.5 for key in probabilities} for _ in objects]
    # 2. The objects with these attributes.
    described = tuple(
        ObjectDescription(o.shape, **{key: getattr(o, key) for key in probabilities if said[key]})
        for o, said in zip(objects, said_of)
    )
    # 3. A relation, a background and a light, sometimes.
    between = None
    if len(objects) == 2 and described[0] != described[1] and rng.random() < RELATION_PROB:
        between = unambiguous_relation(*objects)
    background = scene.background if rng.random() < BACKGROUND_PROB else None
    light = None
    if scene.light is not None and rng.random() < LIGHT_PROB:
        light = scene.light
    return Description(described, between, background, light)


# ---------------------------------------------------------------- description -> words


def article_for(word: str) -> str:
    """Return "a" or "an"."""
    return "an" if word[0] in "aeiou" else "a"


def noun_phrase(obj: ObjectDescription, count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Return 'a large striped red circle' or 'two red circles', as a list of (word, role)."""
    adjectives = [
        (getattr(obj, role), role)
        for role in ("size", "material", "texture", "color")
        if getattr(obj, role)
    ]
    if rng.random() < 0.3:
        adjectives[-2:] = adjectives[-2:][::-1]
    noun = obj.shape
    if count > 1:
        noun += "es" if noun.endswith("s") else "s"
    words = adjectives + [(noun, "shape")]
    article = NUMBERS[count] if count > 1 else article_for(words[0][0])
    return [(article, "number" if count > 1 else "other")] + words


def caption_from(description: Description, rng: random.Random, paraphrase: bool = False) -> Caption:
    """Put a description in words.

    Args:
        description: What to say.
        rng: Source of randomness, for the choice of phrases.
        paraphrase: Use the relation phrases that are held out of training (default: False).

    Returns:
        The caption, with the objects and the role of each word.
    """
    tagged: list[tuple[str, tuple[int, ...], str]] = []

    def say(words: str, objects: tuple[int, ...] = (), role: str = "other") -> None:
        tagged.extend((word, objects, role) for word in words.split())

    def say_background() -> None:
        if background not in SURFACES:
            say("on a"), say(background, role="background"), say("background")
        elif rng.random() < 0.75:
            say("on"), say(background, role="background")
        else:
            say("on a"), say(SURFACES[background], role="background"), say("surface")

    # 1. The opening, sometimes with the background.
    background = description.background
    in_front = background is not None and rng.random() < 0.25
    opening = rng.choices(("", "a picture of", "an image of"), (8, 1, 1))[0]
    say(opening)
    if in_front and not opening:
        say_background()
        say(",")

    # 2. The objects: equal ones are counted, unless a relation tells them apart.
    groups = [
        (obj, [i for i, other in enumerate(description.objects) if other == obj])
        for obj in dict.fromkeys(description.objects)
    ]
    if description.relation is not None:
        groups = [(obj, [i]) for i, obj in enumerate(description.objects)]
    for number, (obj, members) in enumerate(groups):
        if number:
            if description.relation is not None:
                phrase = rng.choice(PHRASES[description.relation])
                say(
                    HELD_OUT_PHRASES[description.relation] if paraphrase else phrase,
                    (0, 1),
                    "relation",
                )
            else:
                say("and" if number == len(groups) - 1 else ",")
        for word, role in noun_phrase(obj, len(members), rng):
            say(word, tuple(members), role)
    # 3. The background, if it has not been said.
    if background is not None and not (in_front and not opening):
        say_background()
    # 4. Where the light comes from.
    if description.light is not None:
        say(", lit from the"), say(description.light, role="light")

    return lay_out(tagged, description)


def lay_out(
    tagged: Iterable[tuple[str, tuple[int, ...], str]], description: Description
) -> Caption:
    """Join words, given as (word, indices of objects, role), into a caption."""
    text, words = "", []
    for word, objects, role in tagged:
        text += "" if not text or word == "," else " "
        words.append(Word(word, len(text), len(text) + len(word), objects, role))
        text += word
    return Caption(text, tuple(words), description)


# ---------------------------------------------------------------- words -> description

_NOUNS = {shape: shape for shape in SHAPES} | {
    s + ("es" if s.endswith("s") else "s"): s for s in SHAPES
}
_ADJECTIVES = (
    {c: "color" for c in COLORS} | {s: "size" for s in SIZES} | {t: "texture" for t in TEXTURES}
) | {m: "material" for m in MATERIALS}
_ALL_PHRASES = sorted(
    ((p, r) for r in RELATIONS for p in (*PHRASES[r], HELD_OUT_PHRASES[r])),
    key=lambda item: -len(item[0]),
)


def _read_noun_phrase(
    words: list[str], text: str, vocabulary: Vocabulary
) -> list[ObjectDescription]:
    count = 1
    if words and words[0] in ("a", "an", "the", *NUMBERS[1:]):
        count = NUMBERS.index(words[0]) if words[0] in NUMBERS else 1
        words = words[1:]
    if not words or words[-1] not in _NOUNS:
        raise ValueError(
            f"cannot read {' '.join(words)!r} in {text!r} as an object: expected one of "
            f"{', '.join(SHAPES)} at its end"
        )
    said: dict[str, str] = {}
    for word in words[:-1]:
        role = _ADJECTIVES.get(word)
        if role == "material" and word not in vocabulary.materials:
            role = None
        if role is None or role in said:
            material = ", ".join(vocabulary.materials)
            raise ValueError(
                f"cannot read the word {word!r} in {text!r}: expected at most one colour "
                f"({', '.join(COLORS)}), "
                f"one size ({', '.join(SIZES)}) and one texture "
                f"({', '.join(TEXTURES)}) before the shape"
                + (f", and one material ({material})" if material else "")
            )
        said[role] = word
    return [ObjectDescription(_NOUNS[words[-1]], **said)] * count


def parse_caption(text: str, vocabulary: Vocabulary = SCENES_VOCABULARY) -> Description:
    """Parse a caption of a built-in world's grammar, with rare words and held-out paraphrases.

    Args:
        text: For example "a red circle above a blue square".
        vocabulary: The words of the world (default: those of the world `scenes`).

    Returns:
        What the caption states.

    Raises:
        ValueError: for a word that the grammar does not have; the message names it.
    """
    # 1. Split into words, and replace rare words by common ones.
    words = re.findall(r"[a-z]+|,", text.lower())
    rare = vocabulary.rare_words
    words = [rare.get(w.removesuffix("s"), w) if w not in _NOUNS else w for w in words]
    line = " ".join(words)
    line = re.sub(r"^(a picture of|an image of|there is|there are) ", "", line)
    # 2. Take out the light, the background, and a negated object.
    light, line = _take_out_light(line, text, vocabulary)
    background, line = _take_out_background(line, text, vocabulary)
    line, _, absent = re.sub(r" (?:(?:and |but |with )?no|without) ", " without ", line).partition(
        " without "
    )
    if absent:
        # must be an object, and adds nothing
        _read_noun_phrase(absent.split(), text, vocabulary)
    # 3. Two objects with a relation, or else a list of objects.
    for phrase, name in _ALL_PHRASES:
        first, middle, second = line.partition(f" {phrase} ")
        if middle:
            objects = [
                *_read_noun_phrase(first.split(), text, vocabulary),
                *_read_noun_phrase(second.split(), text, vocabulary),
            ]
            return Description(tuple(objects), name, background, light)
    parts = [p for p in re.split(r" ?, | and ", line) if p]
    objects = [t for p in parts for t in _read_noun_phrase(p.split(), text, vocabulary)]
    if not objects:
        raise ValueError(
            f"nothing to see in the caption {text!r}: expected, for example, 'a red circle "
            "above a blue square'"
        )
    return Description(tuple(objects), None, background, light)


def _take_out_light(line: str, text: str, vocabulary: Vocabulary) -> tuple[str | None, str]:
    """The side that light comes from, if it is stated, and the line without it."""
    found = re.search(r"(?: ,)? ?\blit from the (\w+)", line) if vocabulary.lights else None
    if not found:
        return None, line
    light = found.group(1)
    if light not in vocabulary.lights:
        raise ValueError(
            f"no light from the {light!r} in {text!r}: expected one of "
            f"{', '.join(vocabulary.lights)}"
        )
    return light, (line[: found.start()] + line[found.end() :]).strip()


def _take_out_background(line: str, text: str, vocabulary: Vocabulary) -> tuple[str | None, str]:
    """The background, if it is stated, and the line without it."""
    name = r"(?:on|against) an? (\w+) background"
    if vocabulary.spoken:  # surfaces: "on wood", "on a wooden surface"
        surfaces = "|".join(vocabulary.backgrounds)
        name = rf"(?:on|against) (?:an? (\w+) (?:background|surface)|({surfaces})\b)"
    found = re.search(rf"\b{name}(?: ,)?", line)
    if not found:
        return None, line
    background = next(word for word in found.groups() if word)
    background = vocabulary.spoken.get(background, background)
    if background not in vocabulary.backgrounds:
        raise ValueError(
            f"no background {background!r} in {text!r}: expected one of "
            f"{', '.join(vocabulary.backgrounds)}"
        )
    return background, (line[: found.start()] + line[found.end() :]).strip()


# ---------------------------------------------------------------- training


def training_caption(scene: Scene, seed: int, index: int) -> Caption:
    """Return the caption of training scene `index`: a pure function of its arguments."""
    rng = random.Random(f"caption/{seed}/{index}")
    return caption_from(describe(scene, rng), rng)
