"""From kernels to source text, one backend a file."""
