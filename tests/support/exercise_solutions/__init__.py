"""Answers to the notebooks' exercises, hidden from students: module nbNN has `reference`, and
`WRONG`, plausible mistakes with words that the check's message must hold.
"""
