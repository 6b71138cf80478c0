"""A server of 2025-06-18 by hand that fails as its tools are named: `shaky.py [flapping | flipping | littering FILE]`.

Flapping it goes soon after it came up; flipping it has other tools every 100 ms, and says so; littering it starts
others.
"""

import json
import os
import sys
import threading
import time

from litter import litter

TOOLS = ("echo", "pid", "sleep", "die", "freeze", "internal", "poke", "counts", "leak")
KIND = sys.argv[1] if len(sys.argv) > 1 else ""
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}

writing = threading.Lock()
counts = {"ping": 0, "tools/list": 0}
flips = 0


def send(message: dict) -> None:
    with writing:
        print(json.dumps(message), flush=True)


def flip() -> None:
    global flips
    while True:
        time.sleep(0.1)
        flips += 1
        send(CHANGED)


def flap() -> None:
    time.sleep(0.05)
    os._exit(3)


def call(number: int, name: str, arguments: dict) -> None:
    text = ""
    match name:
        case "echo":
            text = arguments["text"]
        case "pid":
            text = str(os.getpid())
        case "sleep":
            time.sleep(arguments["seconds"])
        case "die":
            os._exit(7)
        case "leak":
            sys.exit(f"cannot log in with {os.environ.get('TOKEN')} and {sys.argv[-1]}")
        case "poke":
            send(CHANGED)
        case "counts":
            text = json.dumps(counts)
        case "internal":
            send({"jsonrpc": "2.0", "id": number, "error": {"code": -32603, "message": "it broke"}})
            return
    send({"jsonrpc": "2.0", "id": number, "result": {"content": [{"type": "text", "text": text}]}})
    if name == "freeze":
        time.sleep(600)


def answer(method: str, params: dict) -> object:
    match method:
        case "initialize":
            info = {"name": "shaky", "version": "1.2"}
            capabilities = {"tools": {"listChanged": True}}
            return {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": info}
        case "tools/list":
            names = [*TOOLS, f"flip{flips}"] if flips else TOOLS
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
        case "ping":
            return {}


if KIND == "littering":
    litter()
for line in sys.stdin:
    request = json.loads(line)
    method, params = request["method"], request.get("params", {})
    if method in counts:
        counts[method] += 1
    if method == "notifications/initialized" and KIND in ("flapping", "flipping"):
        threading.Thread(target=flap if KIND == "flapping" else flip, daemon=True).start()
    if "id" not in request:
        continue
    if method == "tools/call" and params["name"] == "sleep":  # the one that others run beside
        threading.Thread(target=call, args=(request["id"], "sleep", params["arguments"]), daemon=True).start()
    elif method == "tools/call":
        call(request["id"], params["name"], params["arguments"])
    elif (result := answer(method, params)) is None:
        send({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "no such method"}})
    else:
        send({"jsonrpc": "2.0", "id": request["id"], "result": result})
