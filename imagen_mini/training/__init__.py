"""Training: its configuration, loop, batches, average of the weights, optimizers, checkpoints,
distribution, diagnostics.
"""
