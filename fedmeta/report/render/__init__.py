"""Writes a report's charts and tables as HTML, SVG, PNG and CSV."""
