"""From a name, a folder or a file to a loaded model: the hub, the bundled model, GGUF, the cache, the doctor."""
