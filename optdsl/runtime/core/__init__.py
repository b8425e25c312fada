"""What every part of the runtime shares: tasks, the engine protocol, hyperparameters."""
