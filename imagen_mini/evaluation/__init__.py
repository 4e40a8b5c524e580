"""Evaluation: benchmarks, scores with confidence intervals, kinds of errors, and distances between
sets of images.
"""
