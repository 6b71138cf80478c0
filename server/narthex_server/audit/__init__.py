"""A record of every call that cannot be changed without notice."""
