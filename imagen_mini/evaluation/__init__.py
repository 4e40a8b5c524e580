"""What is measured: benchmarks, scores with intervals, errors, distances between sets of images,
features.
"""
