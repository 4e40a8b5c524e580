"""The world `studio`: the scenes of the built-in world as solid objects under a lamp, on surfaces
with grain. What no caption speaks of is a function of the scene's seed.
"""
