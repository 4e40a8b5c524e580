"""Assignment 2: the U-Net and the words."""
