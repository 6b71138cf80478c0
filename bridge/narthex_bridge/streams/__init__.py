"""Streams that clients come back to."""
