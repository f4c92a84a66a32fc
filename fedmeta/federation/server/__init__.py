"""The server: sample a cohort, admit what is sound, aggregate it, step, report."""
