"""Arms of one experiment, over several seeds, side by side: from a config to ``compare.json``."""
