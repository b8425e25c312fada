"""Rewrites of a program, one a file; `pipeline` holds their order."""
