"""Training: the objective, the optimizers and the loop."""
