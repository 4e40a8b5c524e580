"""imagen_mini: a from-scratch, educational Imagen-style text-to-image cascade."""

__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "ImagenPipeline":                       # on first use: importing the package alone stays light
        from imagen_mini.pipeline import ImagenPipeline
        return ImagenPipeline
    raise AttributeError(f"module 'imagen_mini' has no attribute {name!r}")
