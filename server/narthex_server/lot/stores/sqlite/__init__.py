"""Tickets in a file of SQLite."""
