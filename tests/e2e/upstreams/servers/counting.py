"""A server that numbers the calls it gets, of 2025-11-25: every result is the number of the call, and the arguments."""

import json
import os
import sys
import threading

SCHEMA = {"type": "object"}
SAME = {"readOnlyHint": True, "idempotentHint": True}
TOOLS = [
    {"name": "look", "inputSchema": SCHEMA, "annotations": SAME},
    {"name": "peek", "inputSchema": SCHEMA, "annotations": {"readOnlyHint": True}},
    {"name": "fail", "inputSchema": SCHEMA, "annotations": SAME},
    {"name": "ask", "inputSchema": SCHEMA, "annotations": SAME},
    {"name": "slow", "inputSchema": SCHEMA, "annotations": SAME},
    {"name": "named", "inputSchema": SCHEMA},
    {"name": "write", "inputSchema": SCHEMA},
    {"name": "release", "inputSchema": SCHEMA, "annotations": {"readOnlyHint": True}},
    {"name": "renew", "inputSchema": SCHEMA, "annotations": {"readOnlyHint": True}},
    {"name": "die", "inputSchema": SCHEMA, "annotations": {"readOnlyHint": True}},
]

calls = 0
held: list[tuple[int, dict]] = []  # `slow` calls that `release` answers
asking: dict[str, tuple[int, dict]] = {}
writing = threading.Lock()


def send(**message) -> None:
    with writing:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def called(id, params) -> None:
    global calls
    calls += 1
    text = json.dumps({"call": calls, "pid": os.getpid(), "arguments": params.get("arguments")})
    result = {"content": [{"type": "text", "text": text}]}
    match params["name"]:
        case "fail":
            result["isError"] = True
        case "ask":
            asking[f"ask{id}"] = id, result
            form = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
            send(id=f"ask{id}", method="elicitation/create", params=form)
            return
        case "slow":
            held.append((id, result))
            return
        case "release":
            for waiting, kept in held:
                send(id=waiting, result=kept)
            held.clear()
        case "renew":
            send(method="notifications/tools/list_changed")
        case "die":
            os._exit(1)
    send(id=id, result=result)


for line in sys.stdin:
    message = json.loads(line)
    id, params = message.get("id"), message.get("params") or {}
    match message.get("method"):
        case "initialize":
            info = {"name": "counting", "version": "1"}
            capabilities = {"tools": {"listChanged": True}}
            send(id=id, result={"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info})
        case "tools/list":
            send(id=id, result={"tools": TOOLS})
        case "tools/call":
            called(id, params)
        case "ping":
            send(id=id, result={})
        case None:
            waiting, kept = asking.pop(id)
            send(id=waiting, result=kept)
        case "notifications/cancelled":
            held[:] = [(waiting, kept) for waiting, kept in held if waiting != params["requestId"]]
        case _ if id is not None:
            send(id=id, error={"code": -32601, "message": "no such method"})
