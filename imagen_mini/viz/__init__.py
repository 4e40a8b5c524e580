"""Plots and grids of images. The numbers come from `imagen_mini.evaluation`."""
