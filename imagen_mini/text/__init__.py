"""The frozen text encoder, and a cache of what it gives."""
