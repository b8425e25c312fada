"""From kernels to source text, with one package or file for each backend."""
