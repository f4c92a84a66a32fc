"""One run from config to results: configuration, run folder, checkpoint and resume."""
