"""Small helpers that every subpackage may use: random numbers, precision, configurations from
dictionaries, images in other types, threads. This file imports nothing, so that
`utils.threads` can be used before torch is loaded.
"""
