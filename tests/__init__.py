"""Tests run on one torch thread: small tensors are no slower, and workers do not wait for each other."""

import os

# Before PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
