"""Specifications: finding their texts and those they refer to, and reading them as programs."""
