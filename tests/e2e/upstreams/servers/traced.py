"""A server of 2025-06-18 by hand, whose tools say which trace they were called in; `fail` does so as an error."""

import json
import sys

TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("trace", "fail")]


def answer(method: str, params: dict) -> dict:
    match method:
        case "initialize":
            about, able = {"name": "traced", "version": "1"}, {"tools": {}, "resources": {}}
            return {"protocolVersion": "2025-06-18", "capabilities": able, "serverInfo": about}
        case "tools/list":
            return {"tools": TOOLS}
        case "tools/call":
            said = json.dumps(params.get("_meta", {}))
            return {"content": [{"type": "text", "text": said}], "isError": params["name"] == "fail"}
        case "resources/list":
            return {"resources": [{"uri": "trace:me", "name": "me"}]}
        case "resources/read":
            return {"contents": [{"uri": params["uri"], "text": json.dumps(params.get("_meta", {}))}]}
    return {}


for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        reply = {"jsonrpc": "2.0", "id": request["id"]}
        if request["method"] == "server/discover":
            reply["error"] = {"code": -32601, "message": "no such method"}
        else:
            reply["result"] = answer(request["method"], request.get("params", {}))
        print(json.dumps(reply), flush=True)
