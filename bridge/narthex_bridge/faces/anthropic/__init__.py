"""The Messages API: the endpoints, fields, blocks and events that Anthropic's clients know."""
