"""Does every site carry what its name says? Hooks against plain transformers and against identities."""
