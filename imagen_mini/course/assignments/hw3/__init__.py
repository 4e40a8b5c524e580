"""Assignment 3: guidance."""
