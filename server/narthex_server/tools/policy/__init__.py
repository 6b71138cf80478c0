"""The policy of tool calls: which rule decides, and what it asks for."""
