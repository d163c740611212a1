"""What a dictionary found: which features fire, and where."""
