"""Steps that stay on a GPU."""
