"""The cascade: a stage, its configuration, its files, its growth, and sampling from it."""
