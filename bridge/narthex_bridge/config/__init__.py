"""The bridge's settings, a file for each of their tables."""
