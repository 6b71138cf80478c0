"""What MCP's requests are answered with, whichever way they came in."""
