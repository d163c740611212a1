"""Activations of a corpus: capture rows at sites."""
