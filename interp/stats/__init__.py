"""Estimates and their intervals, corrections for many tests, calibration, power laws. No model, no torch."""
