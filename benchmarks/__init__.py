"""How fast the compiled optimizers are, as ratios measured side by side: `python -m benchmarks`."""
