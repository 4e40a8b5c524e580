"""The built-in world: scenes with ground truth, their images, their captions, and the way back from
image to scene.
"""
