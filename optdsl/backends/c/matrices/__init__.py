"""C for sections whose tensors are read as matrices."""
