"""Uses a trained model: adapts it to new data, and saves it."""
