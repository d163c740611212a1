"""Sparse autoencoders: train, load, evaluate; SAELens' on-disk format."""
