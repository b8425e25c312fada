"""The kinds of runs: training, the counterexample, convex problems, and the cost of a step."""
