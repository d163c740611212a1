"""Prompts, fact pairs and corpora: load, validate, stream. No model."""
