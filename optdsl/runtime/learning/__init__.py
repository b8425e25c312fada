"""Coefficients, and what has values of its own."""
