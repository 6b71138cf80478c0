"""Families that embed: `<model_type>.py` exports CONFIG and build, as those that generate do."""
