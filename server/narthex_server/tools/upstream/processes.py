"""What a configuration says of an upstream that is a process, the same in either form."""

from typing import get_args

from narthex_server.tools.upstream.limits import MOST, Limits
from narthex_server.tools.upstream.node import Node
from narthex_server.tools.upstream.sandbox import Sandbox, SandboxMode
from narthex_server.tools.upstream.source import Process

CONFINED = frozenset({"env_allow", "limits", "sandbox"})
"""Keys that stand beside its command."""

_SANDBOX: tuple[SandboxMode, ...] = get_args(SandboxMode)


def process(node: Node, folder: str) -> Process:
    """From `command`, `args`, `env`, the folder under its key, and what is CONFINED."""
    return Process(
        node.text("command"),
        node.texts("args"),
        node.secrets("env"),
        node.optional(folder),
        node.texts("env_allow") if node.value.get("env_allow") is not None else None,
        _limits(node),
        _sandbox(node),
    )


def _limits(node: Node) -> Limits | None:
    keys = ("memory_mb", "cpu_secs", "open_files", "processes", "file_mb")
    if (limits := node.switch("limits", set(keys))) is None:
        return None
    given = {key: limits.count(key, 0) for key in keys}
    for key, value in given.items():
        if value > MOST:
            raise limits.error(f"must be at most {MOST}", key)
    return Limits(**given)


def _sandbox(node: Node) -> Sandbox:
    match node.value.get("sandbox"):
        case None:
            return Sandbox()
        case bool(on):
            return Sandbox("on" if on else "off")
        case str():
            return Sandbox(node.choice("sandbox", _SANDBOX))
    sandbox = node.child("sandbox")
    sandbox.only({"mode", "network", "writable", "readable"})
    return Sandbox(
        "on" if sandbox.value.get("mode") is None else sandbox.choice("mode", _SANDBOX),
        sandbox.flag("network", False),
        sandbox.texts("writable"),
        sandbox.texts("readable"),
    )
