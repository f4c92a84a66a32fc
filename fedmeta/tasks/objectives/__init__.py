"""fedmeta's objectives, one per module."""
