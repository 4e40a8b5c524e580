"""The built-in world: scenes with ground truth, their images, their captions, and an exact parser
from image to scene. Nothing here depends on diffusion.
"""
