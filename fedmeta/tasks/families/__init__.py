"""fedmeta's task families, one per module."""
