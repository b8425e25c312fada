"""Checkpoints: what is saved, and checks of what is loaded."""
