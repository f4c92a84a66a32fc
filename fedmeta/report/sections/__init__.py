"""The sections of a report; each is one module."""
