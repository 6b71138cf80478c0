"""Calls of forwarded tools wait for their turn at their upstream."""
