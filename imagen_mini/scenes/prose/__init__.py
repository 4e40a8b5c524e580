"""Text about the built-in worlds that is no caption: what a text encoder can read and no image
shows.
"""
