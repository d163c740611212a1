"""Sparse autoencoders trained: plans, architectures, rows, steps, checkpoints.

Not called `train`: a folder of that name would hide the function `interp.saes.train`.
"""
