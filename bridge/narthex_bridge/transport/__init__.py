"""Bytes in and out: HTTP connections, the routes on them, and pipes."""
