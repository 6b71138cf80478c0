"""HTTP APIs by the documents that describe them."""
