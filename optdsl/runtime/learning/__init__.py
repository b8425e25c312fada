"""Learned coefficients on the host, and their scopes."""
