"""Training data by one protocol: the built-in world, and folders of one's own captioned images."""
