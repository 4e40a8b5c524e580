"""What only the notebooks and the course use."""
