"""A server of 2025-06-18 by hand whose tools misbehave, each as it is named: `rogue.py`.

What takes more and more stops at a bound of its own, so that a limit that fails takes no machine down.
"""

import json
import os
import signal
import sys
import threading
import time

MB = 1 << 20
held: list = []


def send(**message: object) -> None:
    os.write(1, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def say(number: object, text: str) -> None:
    send(id=number, result={"content": [{"type": "text", "text": text}]})


def for_ever(descriptor: int, content: bytes) -> None:
    def pour() -> None:
        while True:
            os.write(descriptor, content)

    threading.Thread(target=pour, daemon=True).start()


def fork(number: object) -> None:
    """Each in a session of its own, and its parent gone, as far as that can be done."""
    for _ in range(400):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            time.sleep(600)
    time.sleep(600)


def eat(number: object) -> None:
    for _ in range(80):
        held.append(bytearray(os.urandom(MB)) * 8)
    time.sleep(600)


def eat_together(number: object) -> None:
    for _ in range(8):
        if os.fork() == 0:
            held.append(bytearray(os.urandom(MB)) * 24)
            time.sleep(600)
    time.sleep(600)


def share(number: object) -> None:
    """A hundred MB, but only once: the children have it in common."""
    held.append(bytearray(os.urandom(MB)) * 100)
    for _ in range(4):
        if os.fork() == 0:
            time.sleep(600)
    time.sleep(0.5)
    say(number, "shared")


def burn(number: object) -> None:
    end = time.process_time() + 60
    while time.process_time() < end:
        pass


def burn_deaf(number: object) -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    burn(number)


def write(number: object) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # as in programs that are not Python
    with open("large", "wb") as file:
        for _ in range(64):
            file.write(bytes(MB))


def files(number: object) -> None:
    try:
        for _ in range(5000):
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        for descriptor in held:
            os.close(descriptor)
        say(number, f"{error.strerror}")


def misplace(number: object) -> None:
    """The answer under every id but the one that was asked."""
    for other in (None, 3.5, [1], {}, "zero", -1, 10**30, f"{number}x", True):
        send(id=other, result={"content": []})
    send(id=number + 1_000_000, error={"code": -32603, "message": "for nobody"})


def repeat(number: object) -> None:
    misplace(number)
    for text in ("first", "second", "third"):
        say(number, text)
    send(id=number, error={"code": -32603, "message": "after all it went wrong"})


def close(number: object) -> None:
    os.close(1)
    time.sleep(600)


def sleep(number: object) -> None:
    time.sleep(600)


def notifications(number: object) -> None:
    line = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'
    for_ever(1, line * 64)


def logs(number: object) -> None:
    message = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "error", "data": "x" * 50}}
    for_ever(1, (json.dumps(message).encode() + b"\n") * 64)


def requests(number: object) -> None:
    for_ever(1, b'{"jsonrpc":"2.0","id":"again","method":"roots/list"}\n' * 64)


def malformed(number: object) -> None:
    """Messages of JSON-RPC whose members are of other types than those of MCP."""
    lines = [
        {"method": "notifications/message", "params": {"level": 3}},
        {"method": "notifications/resources/updated", "params": {"uri": {}}},
        {"method": "notifications/progress", "params": {"progressToken": [], "progress": "far"}},
        {"method": "notifications/none/such", "params": {}},
        {"method": "elicitation/create", "params": {"message": 3}, "id": "e"},
        {"method": "sampling/createMessage", "params": {"messages": "many"}, "id": "s"},
        {"method": "none/such", "id": "n"},
        {"id": number, "result": 3},
    ]
    for_ever(1, b"".join(json.dumps({"jsonrpc": "2.0", **line}).encode() + b"\n" for line in lines) * 16)


def garbage(number: object) -> None:
    for_ever(1, b'oops\n\x00\xff\xfe\n{"jsonrpc":\n[[[[\n"text"\nnull\n{}\n' * 64)


def one_line(number: object) -> None:
    for_ever(1, b"x" * 65536)


def stderr(number: object) -> None:
    for_ever(2, b"it does not work\n" * 4096)


def environment(number: object) -> None:
    say(number, json.dumps(dict(os.environ)))


def world(number: object) -> None:
    """What can be done to the machine: a file written here and to a folder, and the other processes seen."""
    found = {"processes": len([name for name in os.listdir("/proc") if name.isdigit()])}
    for name in ("here", sys.argv[-1] + "/there"):
        try:
            with open(name, "w") as file:
                file.write("was here")
            found[os.path.basename(name)] = "written"
        except OSError as error:
            found[os.path.basename(name)] = error.strerror
    with open("/proc/net/dev") as devices:
        found["network"] = [line.split(":")[0].strip() for line in devices if ":" in line]
    say(number, json.dumps(found))


def echo(number: object) -> None:
    say(number, "here")


TOOLS = (
    fork, eat, eat_together, share, burn, burn_deaf, write, files, misplace, repeat, close, sleep, notifications, logs,
    requests, malformed, garbage, one_line, stderr, environment, world, echo,
)  # fmt: skip

for line in sys.stdin:
    request = json.loads(line)
    number, params = request.get("id"), request.get("params", {})
    match request.get("method"):
        case "initialize":
            info = {"name": "rogue", "version": "1"}
            capabilities = {"tools": {"listChanged": True}, "logging": {}}
            version = "2025-06-18"
            send(id=number, result={"protocolVersion": version, "capabilities": capabilities, "serverInfo": info})
        case "tools/list":
            listed = [{"name": tool.__name__, "inputSchema": {"type": "object"}} for tool in TOOLS]
            send(id=number, result={"tools": listed})
        case "tools/call":
            next(tool for tool in TOOLS if tool.__name__ == params["name"])(number)
        case "ping":
            send(id=number, result={})
        case str() if number is not None:
            send(id=number, error={"code": -32601, "message": "no such method"})
