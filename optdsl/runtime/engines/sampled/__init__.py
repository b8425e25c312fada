"""Hyper-gradients that are estimated from a sample of the elements of each tensor."""
