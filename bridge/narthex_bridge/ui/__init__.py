"""The status page: its files, and what it shows."""
