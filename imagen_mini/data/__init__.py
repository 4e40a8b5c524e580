"""Training data behind one protocol: the built-in world, and folders of captioned images.

A data set is an endless sequence of numbered samples. A sample is a function of the seed and its
index alone, in any process and at any time. So step s with batch size b trains on the samples
s * b ... s * b + b - 1, and resuming needs no state. See `base.Dataset` for what a data set needs,
and `datasets.open_dataset` to open one.
"""
