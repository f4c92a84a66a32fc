"""Downloads, reads and checks data files."""
