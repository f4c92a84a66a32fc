"""What a run learned, put to use: adapted to data that the run never saw, and saved."""
