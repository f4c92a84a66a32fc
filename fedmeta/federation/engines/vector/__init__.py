"""The in-process engine: a Flower grid that computes a cohort in stacked batches."""
