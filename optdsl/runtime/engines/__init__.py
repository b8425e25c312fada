"""What runs kernels on parameters."""
