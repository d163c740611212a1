"""One phenomenon a file. A probe imports `interp` only, never a sibling."""
