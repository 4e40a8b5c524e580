"""Sets of captioned images to train on, made of packages that anyone can fetch."""
