"""How to learn from tasks: models on the task axis, and meta-learning algorithms as pure functions."""
