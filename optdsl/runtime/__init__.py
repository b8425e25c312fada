"""What runs when a model trains: built modules, the optimizer, learned coefficients."""
