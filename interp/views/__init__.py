"""Figures and the HTML report, from saved runs alone: no torch, no model."""
