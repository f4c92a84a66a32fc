"""Reports about runs and comparisons, from their files alone."""
