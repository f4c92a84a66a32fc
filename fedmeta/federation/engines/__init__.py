"""Where clients run: in this process, on a Ray cluster, or behind a SuperLink."""
