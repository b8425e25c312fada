"""From emitted text to something that runs: compilers, caches, modules."""
