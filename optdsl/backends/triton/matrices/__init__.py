"""Triton for sections whose tensors are read as matrices."""
