"""Assignment 1: noise and samplers."""
