"""A server of 2025-06-18 by hand, which prints to stdout what it should not, and lists its tools in pages of one."""

import json
import sys

SCHEMA = (
    '{"type":"object","required":["z"],"properties":'
    '{"z":{"type":"integer","maximum":123456789012345678901234567890},"a":{"type":"string"}}}'
)


def send(message: str) -> None:
    print(message, flush=True)


def answer(request: dict) -> str:
    match request["method"]:
        case "initialize":
            version = request["params"]["protocolVersion"] and "2025-06-18"
            return (
                f'{{"protocolVersion":"{version}","capabilities":{{"tools":{{"listChanged":true}}}},'
                '"serverInfo":{"name":"plain","version":"1"}}'
            )
        case "tools/list":
            if "cursor" in request.get("params", {}):
                return f'{{"tools":[{{"name":"second tool!","inputSchema":{SCHEMA}}}]}}'
            return f'{{"tools":[{{"name":"same","inputSchema":{SCHEMA}}}],"nextCursor":"2"}}'
        case "tools/call":
            send("debug: called")
            arguments = json.dumps(request["params"]["arguments"])
            return f'{{"content":[{{"type":"text","text":{json.dumps(arguments)}}}],"structuredContent":{arguments}}}'


send("Welcome to plain!")
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    if request["method"] == "server/discover":
        send(
            json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "no such method"}})
        )
    elif request.get("params", {}).get("arguments", {}).get("a") == "nonsense":
        send(f'{{"jsonrpc":"2.0","id":{request["id"]},"result":{{"content":"not a list"}}}}')
    else:
        send(f'{{"jsonrpc":"2.0","id":{request["id"]},"result":{answer(request)}}}')
