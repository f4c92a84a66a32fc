"""Ways to train; each is one module."""
