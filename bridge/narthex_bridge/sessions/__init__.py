"""MCP sessions: what a client has agreed on, and how it is reached."""
