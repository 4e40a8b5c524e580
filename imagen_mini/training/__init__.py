"""Training: configuration, loop, batches, average of the weights, optimizers, checkpoints, several
processes, diagnostics.
"""
