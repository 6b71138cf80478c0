"""Locks that know how long anybody waited for them."""
