"""A run told to TensorBoard or MLflow, beside what it writes itself."""
