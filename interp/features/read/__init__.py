"""Read an index: its arrays, one feature, a search, a comparison, other tools' formats."""
