"""The original model of a pair, in a child process: the only importer of torch and transformers."""
