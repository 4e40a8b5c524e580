"""The built-in world: scenes with ground truth, their pictures, their captions, and the way back from picture to scene."""
