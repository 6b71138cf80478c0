"""An MCP server over stdio with one tool that answers with its text, written by hand: a library's would be slower than
what stands before it, which is to be measured."""

import json
import sys
from collections.abc import Mapping
from typing import Any

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def answer(method: str, params: Mapping[str, Any]) -> dict[str, object] | None:
    """The result of a request; None for what this server does not know."""
    match method:
        case "initialize":
            server = {"name": "echo", "version": "1"}
            version = params["protocolVersion"]
            return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
        case "tools/list":
            return {"tools": [{"name": "echo", "inputSchema": SCHEMA}]}
        case "tools/call":
            return {"content": [{"type": "text", "text": params["arguments"]["text"]}], "isError": False}
        case "ping":
            return {}
    return None


def main() -> None:
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        result = answer(message["method"], message.get("params", {}))
        told = {"result": result} if result is not None else {"error": {"code": -32601, "message": "unknown method"}}
        sys.stdout.buffer.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **told}).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
