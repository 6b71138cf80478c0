"""The catalog's names of tools, and how a block tells them: by server and tool."""

BETWEEN = "__"


def tool(server: str, name: str) -> str:
    """The catalog's name."""
    return f"{server}{BETWEEN}{name}" if server else name


def parts(tool: str) -> tuple[str, str]:
    """Server (empty for a native tool) and name: what `tool` makes the same name of again."""
    server, between, name = tool.partition(BETWEEN)
    return (server, name) if between and server and name else ("", tool)
