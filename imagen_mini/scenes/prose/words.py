"""The words that occur in text and in no training caption, and what they mean.

A test holds that no training caption has one of them. So whatever an image shows of them, the text
encoder has learnt from text alone.
"""

from __future__ import annotations

from imagen_mini.scenes.captions import HELD_OUT_PHRASES, RARE_WORDS, STUDIO_VOCABULARY
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    SURFACES,
    TEXTURES,
)

# Further synonyms, beside the rare words that the benchmark asks for.
MORE_SYNONYMS = {
    "scarlet": "red",
    "ruby": "red",
    "tangerine": "orange",
    "apricot": "orange",
    "lemon": "yellow",
    "canary": "yellow",
    "jade": "green",
    "olive": "green",
    "turquoise": "cyan",
    "aqua": "cyan",
    "cobalt": "blue",
    "sapphire": "blue",
    "lilac": "purple",
    "plum": "purple",
    "fuchsia": "pink",
    "salmon": "pink",
    "snowy": "white",
    "sooty": "black",
    "grey": "gray",
    "ashen": "gray",
    "cream": "beige",
    "disk": "circle",
    "loop": "ring",
    "hoopla": "ring",
    "block": "square",
    "delta": "triangle",
    "plus": "cross",
    "starlet": "star",
    "big": "large",
    "giant": "large",
    "enormous": "large",
    "little": "small",
    "minute": "small",
    "miniature": "small",
    "stripy": "striped",
    "lined": "striped",
    "speckled": "dotted",
    "freckled": "dotted",
    "checked": "checkered",
    "chequerboard": "checkered",
    "uniform": "solid",
    "unpatterned": "solid",
    "lustreless": "matte",
    "chalky": "matte",
    "polished": "shiny",
    "gleaming": "shiny",
    "steel": "metallic",
    "silvery": "metallic",
    "oak": "wood",
    "beach": "sand",
    "canvas": "linen",
    "slatestone": "slate",
    "dolomite": "marble",
}
# Rare word -> the common word that captions have for it.
SYNONYMS = {**RARE_WORDS, **STUDIO_VOCABULARY.rare_words, **MORE_SYNONYMS}
# Relation -> phrases for it that no training caption has: those of the benchmark, and others.
TEXT_PHRASES = {
    "left of": (HELD_OUT_PHRASES["left of"], "to the left side of", "leftward of"),
    "right of": (HELD_OUT_PHRASES["right of"], "to the right side of", "rightward of"),
    "above": (HELD_OUT_PHRASES["above"], "higher than", "atop"),
    "below": (HELD_OUT_PHRASES["below"], "lower than", "underneath"),
}
# Numbers of captions in another word.
GROUPS = {"single": 1, "pair": 2, "couple": 2, "trio": 3, "quartet": 4, "quintet": 5}
NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five"),
    *("six", "seven", "eight", "nine", "ten"),
)

# The words of captions, by what they say of an image.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLORS),
    "shape": tuple(SHAPES),
    "size": tuple(SIZES),
    "pattern": TEXTURES,
    "finish": MATERIALS,
    "background": tuple(BACKGROUNDS),
    "surface": tuple(SURFACES),
    "light": LIGHTS,
}
ATTRIBUTE_OF = {word: name for name, words in ATTRIBUTES.items() for word in words}

# What each word of captions is, in other words.
DEFINITIONS: dict[str, tuple[str, ...]] = {
    "circle": ("a round flat thing", "a round thing without corners", "round like a coin"),
    "ring": ("round with a hole", "a round band around a hole", "a circle with a hole in it"),
    "square": ("a flat thing with four equal sides", "a thing with four corners"),
    "triangle": ("a flat thing with three sides", "a thing with three corners"),
    "star": ("a thing with five points", "pointed in five directions"),
    "cross": ("two bars that meet in the middle", "a thing with four arms"),
    "large": ("of great size", "not small", "of more than usual size"),
    "small": ("of little size", "not large", "of less than usual size"),
    "solid": ("of one colour all over", "without any pattern"),
    "striped": ("covered with stripes", "with lines from side to side"),
    "dotted": ("covered with dots", "with many spots on it"),
    "checkered": ("with fields like a chessboard", "with light and dark fields in turn"),
    "matte": ("without any gloss", "dull, so that nothing is mirrored"),
    "shiny": ("with a bright gloss", "smooth, with a bright spot where light falls"),
    "metallic": ("like metal", "as if made of metal"),
    "wood": ("what trees are made of", "what planks are cut from"),
    "sand": ("what a desert is made of", "many fine grains"),
    "slate": ("a dark stone that splits into plates", "a stone for roofs"),
    "linen": ("a cloth woven from flax", "what tablecloths are woven from"),
    "marble": ("a stone with veins", "a stone for statues"),
}
# Things that everyone knows, by colour.
OF_COLOUR: dict[str, tuple[str, ...]] = {
    "red": ("blood", "a ripe tomato", "a fire engine", "a strawberry"),
    "orange": ("a carrot", "a pumpkin", "a fox"),
    "yellow": ("a banana", "the sun", "a lemon peel", "butter"),
    "green": ("grass", "a frog", "a leaf in spring", "a cucumber"),
    "cyan": ("shallow water", "a swimming pool"),
    "blue": ("the sky", "the deep sea", "a cornflower"),
    "purple": ("an aubergine", "lavender", "a ripe fig"),
    "pink": ("a flamingo", "a piglet", "cherry blossom"),
    "white": ("snow", "milk", "salt"),
    "black": ("coal", "the night", "a raven"),
    "gray": ("an elephant", "a rain cloud", "ash"),
    "beige": ("oatmeal", "a camel"),
}
NAMES = ("mia", "tom", "anna", "ben", "lena", "paul", "nora", "sam", "ida", "max")


def text_only_words() -> frozenset[str]:
    """The words for what images show that no training caption has."""
    in_captions = {"on", "the", "to", "of", *LIGHTS}
    in_phrases = {w for of in TEXT_PHRASES.values() for phrase in of for w in phrase.split()}
    return frozenset(SYNONYMS) | frozenset(GROUPS) | (in_phrases - in_captions)


def synonyms_of(word: str) -> tuple[str, ...]:
    """The rare words for a word of captions; none for most."""
    return _SYNONYMS_OF.get(word, ())


_SYNONYMS_OF: dict[str, tuple[str, ...]] = {}
for _rare, _common in SYNONYMS.items():
    _SYNONYMS_OF[_common] = (*_SYNONYMS_OF.get(_common, ()), _rare)
