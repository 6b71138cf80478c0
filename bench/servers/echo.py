"""An MCP server over stdio with one tool that answers with its text: a bare loop over lines, so that what stands before
it is never slower because of it."""

import sys
from typing import Any, BinaryIO

import orjson

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def answer(request: dict[str, Any], params: dict[str, Any]) -> dict[str, object]:
    """To everything but calls of tools."""
    result: dict[str, object]
    match request["method"]:
        case "initialize":
            server = {"name": "echo", "version": "1"}
            result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": server}
        case "tools/list":
            result = {"tools": [{"name": "echo", "inputSchema": SCHEMA}]}
        case "ping":
            result = {}
        case _:
            return {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "unknown method"}}
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


def echo(lines: BinaryIO, answers: BinaryIO) -> None:
    loads, dumps, write, flush = orjson.loads, orjson.dumps, answers.write, answers.flush
    for line in lines:
        request = loads(line)
        params = request.get("params") or {}
        if request.get("method") == "tools/call":
            content = [{"type": "text", "text": params["arguments"]["text"]}]
            response = {"jsonrpc": "2.0", "id": request["id"], "result": {"content": content, "isError": False}}
        elif "id" in request:
            response = answer(request, params)
        else:
            continue
        write(dumps(response) + b"\n")
        flush()


if __name__ == "__main__":
    echo(sys.stdin.buffer, sys.stdout.buffer)
