"""A server of 2025-11-25 by hand, whose answers about resources and prompts are of the wrong kind: `hostile.py LISTS`.

With LISTS `broken` its lists are, too; with `silent` it does not answer for one of them.
"""

import json
import sys

BROKEN, SILENT = (sys.argv[1] == kind for kind in ("broken", "silent"))
CAPABILITIES = {"tools": {}, "resources": {"subscribe": True}, "prompts": {}, "completions": {}}
READ = {
    "x:number": {"contents": 3},
    "x:neither": {"contents": [{"uri": "x:neither"}]},
    "x:base64": {"contents": [{"uri": "x:base64", "blob": "***"}]},
    "x:odd": {"contents": [{"uri": "x:odd", "text": "fine", "more": 1}], "ttlMs": "soon", "_meta": {"a": None}},
}


def answer(method: str, params: dict) -> object:
    match method:
        case "initialize":
            info = {"name": "hostile", "version": "1"}
            return {"protocolVersion": "2025-11-25", "capabilities": CAPABILITIES, "serverInfo": info}
        case "tools/list":
            return {"tools": [{"name": "works", "inputSchema": {"type": "object"}}]}
        case "resources/list":
            if BROKEN:
                return {"resources": [{"uri": 3}]}
            sizes = [-1, "10", 2**70, 5.0, True]
            odd = [{"uri": f"x:size{index}", "name": "", "size": size} for index, size in enumerate(sizes)]
            return {"resources": [{"uri": uri, "name": uri} for uri in READ] + odd, "nextCursor": "for ever"}
        case "resources/templates/list":
            return {"resourceTemplates": [{"uriTemplate": "x:{{{a}" + "{+b}" * 200, "name": "t"}]}
        case "prompts/list":
            return {"prompts": "many"} if BROKEN else {"prompts": [{"name": "p"}]}
        case "resources/read":
            return READ.get(params["uri"])
        case "prompts/get":
            return {"messages": [{"role": "boss", "content": "text"}]}
        case "completion/complete":
            return {"completion": {"values": [1, 2]}}
        case "tools/call":
            return {"content": []}


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request or (SILENT and request["method"] == "prompts/list"):
        continue
    reply = {"jsonrpc": "2.0", "id": request["id"]}
    if request["method"] in ("server/discover", "resources/subscribe"):
        reply["error"] = {"code": -32601, "message": "no such method"}
    else:
        reply["result"] = answer(request["method"], request.get("params", {}))
    print(json.dumps(reply), flush=True)
