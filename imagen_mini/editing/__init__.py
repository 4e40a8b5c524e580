"""Edits of images by their prompts: Prompt-to-Prompt, blending, recording of attention, guided
sampling, illusions.
"""
