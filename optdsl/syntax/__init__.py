"""From text to a typed syntax tree and back."""
