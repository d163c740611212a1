"""Load a model and its tokenizer, name its sites, read and edit them, say where it came from."""
