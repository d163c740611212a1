"""Measures, statistics, lenses and patching."""
