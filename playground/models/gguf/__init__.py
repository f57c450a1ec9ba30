"""GGUF files: headers, shapes, what file names say."""
