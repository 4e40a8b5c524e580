"""The cascade: a stage (network, schedule, prediction), its configuration, its files, and how
options of sampling reach it.
"""
