"""A server by hand that does one thing after the other: while its tool `block` runs it answers nothing."""

import json
import sys
import time

for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    reply = {"jsonrpc": "2.0", "id": request["id"]}
    match request["method"]:
        case "initialize":
            info = {"name": "busy", "version": "1"}
            reply["result"] = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            reply["result"] = {"tools": [{"name": "block", "inputSchema": {"type": "object"}}]}
        case "tools/call":
            time.sleep(request["params"]["arguments"]["seconds"])
            reply["result"] = {"content": [{"type": "text", "text": "done"}]}
        case "ping":
            reply["result"] = {}
        case _:
            reply["error"] = {"code": -32601, "message": "no such method"}
    print(json.dumps(reply), flush=True)
