"""What each URL does, free of any web framework."""
