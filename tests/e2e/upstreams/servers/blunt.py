"""A server of 2025-11-25 by hand: asks when it should not and what it should not, and sends logs at its level.

What its own requests are answered with it tells in the result of `heard`; its resource asks, and is the answer.
"""

import json
import sys

level = "info"
heard = []
reading = []


def send(flush: bool = True, **message) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=flush)


def result(identifier, text: str, flush: bool = True) -> None:
    send(flush, id=identifier, result={"content": [{"type": "text", "text": text}]})


def listed(name: str) -> dict:
    return {"name": name, "inputSchema": {"type": "object"}}


def ask(params, method="elicitation/create") -> None:
    send(id=f"q{len(heard)}", method=method, params=params)


for line in sys.stdin:
    message = json.loads(line)
    identifier, params = message.get("id"), message.get("params", {})
    match message.get("method"):
        case None:
            heard.append(message.get("error", message.get("result")))
            if reading:
                part = {"uri": "x:asks", "text": json.dumps(heard[-1])}
                send(id=reading.pop(), result={"contents": [part]})
        case "initialize":
            capabilities = {"tools": {}, "resources": {}, "logging": {}}
            info = {"name": "blunt", "version": "1"}
            version = "2025-11-25"
            send(id=identifier, result={"protocolVersion": version, "capabilities": capabilities, "serverInfo": info})
        case "tools/list":
            names = ("heard", "late", "garbage", "strange", "hold", "ask_now", "level", "logs", "state")
            send(id=identifier, result={"tools": [listed(name) for name in names]})
        case "resources/list":
            send(id=identifier, result={"resources": [{"uri": "x:asks", "name": "asks"}]})
        case "resources/templates/list":
            send(id=identifier, result={"resourceTemplates": []})
        case "resources/read":
            reading.append(identifier)
            ask({"message": "?", "requestedSchema": {"type": "object", "properties": {}}})
        case "logging/setLevel":
            level = params["level"]
            send(id=identifier, result={})
        case "tools/call":
            match params["name"]:
                case "heard":
                    result(identifier, json.dumps(heard))
                case "late":
                    result(identifier, "done", flush=False)  # in one piece with the request: no other call is between
                    ask({"message": "?", "requestedSchema": {"type": "object", "properties": {}}})
                case "garbage":
                    ask({"message": 3})
                    ask({"mode": "telepathy", "message": "?"})
                    ask({}, "no/such")
                    result(identifier, "done")
                case "strange":
                    send(method="notifications/elicitation/complete", params={"elicitationId": "nobody's"})
                    send(method="notifications/cancelled", params={"requestId": "nobody's"})
                    result(identifier, "done")
                case "hold":
                    send(
                        method="notifications/progress",
                        params={"progressToken": params["_meta"]["progressToken"], "progress": 1},
                    )
                case "ask_now":
                    ask({"message": "?", "requestedSchema": {"type": "object", "properties": {}}})
                    result(identifier, "asked")
                case "level":
                    result(identifier, level)
                case "logs":
                    for one in ("debug", "info", "error"):
                        send(method="notifications/message", params={"level": one, "data": one})
                    result(identifier, level)
                case "state":
                    result(identifier, json.dumps(params))
        case "server/discover":
            send(id=identifier, error={"code": -32601, "message": "no such method"})
