"""Prompt-to-Prompt under one short name: `from imagen_mini.prompt_to_prompt import Replace, Refine,
Reweight, LocalBlend`; with prompt switching and feature injection, to compare or combine it with.

The code is in `imagen_mini.editing`.
"""

from imagen_mini.editing.blending import DiffEditMask, LocalBlend
from imagen_mini.editing.feature_injection import FeatureInjection
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace, Reweight

__all__ = [
    "Chain",
    "DiffEditMask",
    "FeatureInjection",
    "LocalBlend",
    "PromptSwitching",
    "Refine",
    "Replace",
    "Reweight",
]
