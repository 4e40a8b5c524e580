"""Assignment 4: the cascade and its training."""
