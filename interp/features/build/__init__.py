"""Build an index: the pass over a corpus, and everything that is worked out from what fired."""
