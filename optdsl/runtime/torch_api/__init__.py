"""The optimizer class that users see."""
