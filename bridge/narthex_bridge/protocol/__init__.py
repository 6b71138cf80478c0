"""The MCP protocol without I/O: bytes and events in, bytes and effects out."""
