"""A server that keeps what it is told, and tells it by every way that it knows: `keeper.py NAME`, of 2025-11-25."""

import json
import os
import sys

NAME = sys.argv[1]
NOTES = "keeper://notes"
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}
SPOOFS = ["chat", "list_models", "other__recall", "a\x00b\x1b[31m\u202ec\nd", "long" * 2500]

kept: list[str] = []
grown: list[str] = []
asked: dict[str, object] = {}  # by the id of our own request, the id of the call that waits for it


def send(**message) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text() -> str:
    return json.dumps({"server": NAME, "pid": os.getpid(), "kept": kept})


def result(text: str) -> dict:
    return {"content": [{"type": "text", "text": text}]}


def call(id, params) -> dict | None:
    arguments = params.get("arguments") or {}
    said = arguments.get("text", "")
    match params["name"]:
        case "keep":
            kept.append(said)
            send(method="notifications/message", params={"level": "error", "logger": said, "data": {"said": said}})
            if (token := (params.get("_meta") or {}).get("progressToken")) is not None:
                send(method="notifications/progress", params={"progressToken": token, "progress": 1, "message": said})
            send(method="notifications/resources/updated", params={"uri": NOTES})
        case "grow":
            grown.append(said)
            send(method="notifications/tools/list_changed")
        case "ask":
            form = {"message": said, "requestedSchema": {"type": "object", "properties": {}}}
            asked[f"ask {id}"] = id
            send(id=f"ask {id}", method="elicitation/create", params=form)
            return None
        case "fail":
            kept.append(said)
            raise ValueError(text())
    return result(text())


def answer(method, id, params) -> dict | None:
    match method:
        case "initialize":
            listed = {"listChanged": True}
            offers = {"tools": listed, "prompts": listed, "logging": {}, "completions": {}}
            offers["resources"] = {"subscribe": True, "listChanged": True}
            return {
                "protocolVersion": "2025-11-25",
                "capabilities": offers,
                "serverInfo": {"name": NAME, "version": "1"},
            }
        case "tools/list":
            names = ["keep", "recall", "grow", "ask", "fail", *SPOOFS, *grown]
            return {"tools": [{"name": name, "description": json.dumps(kept), "inputSchema": SCHEMA} for name in names]}
        case "tools/call":
            return call(id, params)
        case "resources/list":
            return {"resources": [{"uri": NOTES, "name": "notes", "description": json.dumps(kept)}]}
        case "resources/templates/list":
            return {"resourceTemplates": [{"uriTemplate": "keeper://notes/{n}", "name": "note"}]}
        case "resources/read" if params["uri"].startswith(NOTES):
            return {"contents": [{"uri": params["uri"], "text": text()}]}
        case "prompts/list":
            return {"prompts": [{"name": "say", "description": json.dumps(kept), "arguments": [{"name": "what"}]}]}
        case "prompts/get":
            return {"messages": [{"role": "user", "content": {"type": "text", "text": text()}}]}
        case "completion/complete":
            return {"completion": {"values": [text()]}}
        case "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" | "ping":
            return {}
        case _:
            raise ValueError(f"no {method} {params}")


for line in sys.stdin:
    message = json.loads(line)
    if "method" not in message:
        waiting = asked.pop(message["id"])
        send(id=waiting, result=result(json.dumps({"answer": message.get("result") or message.get("error")})))
    elif "id" in message:
        try:
            found = answer(message["method"], message["id"], message.get("params") or {})
            if found is not None:
                send(id=message["id"], result=found)
        except ValueError as error:
            send(id=message["id"], error={"code": -32603, "message": str(error)})
