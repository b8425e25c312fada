"""What is saved, and what may be loaded."""
