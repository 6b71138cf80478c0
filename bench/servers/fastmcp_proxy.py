"""FastMCP's proxy in front of a stdio server, for an environment that has it: fastmcp_proxy.py PORT COMMAND [ARGS]."""

import sys

from fastmcp.server import create_proxy

if __name__ == "__main__":
    port, command, *arguments = sys.argv[1:]
    proxy = create_proxy({"mcpServers": {"echo": {"command": command, "args": arguments}}})
    proxy.run("http", show_banner=False, port=int(port), json_response=True, log_level="error")
