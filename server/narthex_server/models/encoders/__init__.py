"""Families that only encode: `<model_type>.py` exports CONFIG and MODEL, which has the method `encode`."""
