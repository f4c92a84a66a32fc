"""Reads a user's own data: folders of images and sounds, tables, texts and arrays."""
