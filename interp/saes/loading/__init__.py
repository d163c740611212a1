"""Sparse autoencoders from disk and hub: SAELens' folders and releases, other libraries' formats, the bundled one."""
