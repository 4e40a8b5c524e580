"""Assignment 5: Prompt-to-Prompt."""
