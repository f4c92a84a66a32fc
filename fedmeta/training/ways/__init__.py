"""Ways to train without a federation; each is one module."""
