"""imagen_mini: a from-scratch, educational Imagen-style text-to-image cascade.

from imagen_mini import ImagenPipeline, Replace
"""

from importlib import import_module

__version__ = "0.1.0"

# Public names and the modules they live in, loaded on first use: importing the package alone stays
# light.
_PUBLIC = {
    "ImagenPipeline": "pipeline",
    "ImagenOutput": "pipeline",
    "Replace": "editing.prompt_to_prompt",
    "Refine": "editing.prompt_to_prompt",
    "Reweight": "editing.prompt_to_prompt",
    "Chain": "editing.prompt_to_prompt",
    "PromptSwitching": "editing.prompt_switching",
    "FeatureInjection": "editing.feature_injection",
    "LocalBlend": "editing.blending",
    "DiffEditMask": "editing.blending",
    "PlugAndPlay": "editing.plug_and_play",
    "MasaCtrl": "editing.masactrl",
    "Edit": "editing.base",
    "BoundEdit": "editing.base",
    "AttentionControl": "models.control",
    "AttentionStore": "editing.attention_store",
    "TextEncoder": "text.encoder",
    "DiffusionStage": "cascade.stage",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'imagen_mini' has no attribute {name!r}; its public names are "
            f"{', '.join(__all__)}"
        )
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
