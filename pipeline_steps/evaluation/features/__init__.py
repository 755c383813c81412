"""Embeddings for every evaluation: computed once per checkpoint, set and split, kept in a cache, read by an index."""
