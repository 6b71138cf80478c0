"""A server of 2025-11-25 by hand whose answers are as large as it is asked to make them.

`give` answers with text, `rows` with objects, `bad` with what is not JSON, `odd` with what is no result of a call. The
answer of `small` is always small; so is that of `flood`, but a long line that is no message comes before it.
"""

import json
import sys

NAMES = ("give", "rows", "bad", "odd", "small", "flood")


def say(**members: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **members}) + "\n")
    sys.stdout.flush()


def called(number: object, name: str, size: int) -> None:
    text = {"type": "text", "text": "small"}
    match name:
        case "give":
            say(id=number, result={"content": [{"type": "text", "text": "é" * (size // 6)}]})  # \u00e9
        case "rows":
            rows = [{"id": index, "big": 2**70, "ok": True} for index in range(size // 55)]
            say(id=number, result={"content": [text], "structuredContent": {"rows": rows}})
        case "bad":
            sys.stdout.write(f'{{"jsonrpc":"2.0","id":{json.dumps(number)},"result":{{"content":[{"x" * size}\n')
            sys.stdout.flush()
        case "odd":
            say(id=number, result={"content": ["x" * size]})
        case _:
            if name == "flood":
                sys.stdout.write("x" * size + "\n")
            say(id=number, result={"content": [text]})


for line in sys.stdin:
    request = json.loads(line)
    number, params = request.get("id"), request.get("params", {})
    match request["method"]:
        case "initialize":
            info = {"name": "large", "version": "1"}
            result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
            say(id=number, result=result)
        case "tools/list":
            say(id=number, result={"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]})
        case "tools/call":
            called(number, params["name"], params["arguments"].get("size", 0))
        case _ if number is not None:
            say(id=number, error={"code": -32601, "message": "no such method"})
