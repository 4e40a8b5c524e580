"""The frozen text encoder, and a cache of its embeddings on disk."""
