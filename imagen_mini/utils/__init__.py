"""Small things that every room may use: random numbers, precision, configurations from
dictionaries, images in other types.
"""
