"""Which MCP servers to forward: mistral.rs's `mcp-config.json` and the common `mcpServers` form, as they are."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast, get_args

from narthex_server.tools.audience import EVERYBODY, Audience
from narthex_server.tools.server import Scope
from narthex_server.tools.upstream.breaker import BreakerSettings
from narthex_server.tools.upstream.health import HealthSettings
from narthex_server.tools.upstream.limits import MOST, Limits
from narthex_server.tools.upstream.node import Node
from narthex_server.tools.upstream.presenting import NAMESPACE, PRESENTATION, Namespace, namespace_of, presentation_of
from narthex_server.tools.upstream.sandbox import Sandbox, SandboxMode
from narthex_server.tools.upstream.source import (
    DEFAULT_CALL_TIMEOUT,
    DEFAULT_CONCURRENCY,
    Http,
    Process,
    Protocol,
    Sampling,
    ServerSource,
    Transport,
    Unsupported,
)

_OWN = ("sampling", "protocol", "scope", "tenants", "breaker", "health", *PRESENTATION)
"""Keys of ours, which either form may have beside its own."""

_CONFINEMENT = ("env_allow", "limits", "sandbox")
"""Those of a process, which stand beside its command."""

_MISTRAL_SERVER = {"id", "name", "source", "enabled", "bearer_token", "resources", *_OWN}

_SAMPLING = cast(tuple[Sampling, ...], get_args(Sampling))
_SANDBOX = cast(tuple[SandboxMode, ...], get_args(SandboxMode))
_PROTOCOL = cast(tuple[Protocol, ...], get_args(Protocol))
_SCOPE = cast(tuple[Scope, ...], get_args(Scope))


def parse_sources(
    document: Mapping[str, Any], where: str = "mcp-config", environ: Mapping[str, str] = os.environ
) -> tuple[ServerSource, ...]:
    """The enabled servers of a document in either form, in its order; `where` is what errors call the document.

    `${NAME}` and `${NAME:-default}` in any text stand for environment variables.

    Raises:
        SourceError: a key is missing, of the wrong type or not known, a name is used twice, a variable is not set.
    """
    root = Node(document, where, environ)
    if not document:
        return ()
    if "servers" in document:
        sources = tuple(_mistral(root))
    elif "mcpServers" in document:
        sources = tuple(_common(root))
    else:
        raise root.error("has neither `servers` (mistral.rs's form) nor `mcpServers`")
    names = [source.name for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise root.error(f"two servers are named {twice[0]!r}")
    return sources


def _mistral(root: Node) -> Iterator[ServerSource]:
    root.only({"servers", "auto_register_tools", "tool_timeout_secs", "max_concurrent_calls", NAMESPACE})
    root.flag("auto_register_tools", True)  # forwarding is all we do with a server: nothing else to switch
    call_timeout = root.number("tool_timeout_secs", DEFAULT_CALL_TIMEOUT)
    concurrency = int(root.number("max_concurrent_calls", DEFAULT_CONCURRENCY))
    namespace = namespace_of(root)
    for server in root.items("servers"):
        server.only(_MISTRAL_SERVER)
        if not server.flag("enabled", True):
            continue
        source = server.child("source")
        token = server.optional("bearer_token")
        limit = call_timeout
        transport: Transport
        match kind := source.text("type"):
            case "Process":
                source.only({"type", "command", "args", "env", "work_dir", *_CONFINEMENT})
                transport = _process(source, "work_dir")
            case "Http":
                source.only({"type", "url", "headers", "timeout_secs"})
                transport = Http(source.url("url"), _with_token(source.mapping("headers"), token))
                limit = source.number("timeout_secs", call_timeout)
            case "WebSocket":
                transport = Unsupported("websocket", "WebSocket is not supported yet; use Http or Process")
            case _:
                raise source.error(f"is {kind!r}; known are Process, Http and WebSocket", "type")
        limited = ServerSource(server.text("name"), transport, call_timeout=limit, concurrency=concurrency)
        yield _with_own(server, limited, namespace)


def _common(root: Node) -> Iterator[ServerSource]:
    # files of this form carry keys of the program they were written for: unknown ones are not ours to judge
    namespace = namespace_of(root)
    servers = root.child("mcpServers")
    for name in servers.value:
        server = servers.child(name)
        if server.flag("disabled", False) or not server.flag("enabled", True):
            continue
        kind = server.optional("type") or server.optional("transport") or ("http" if "url" in server.value else "stdio")
        transport: Transport
        match kind.lower().replace("_", "-"):
            case "stdio":
                transport = _process(server, "cwd")
            case "http" | "streamable-http" | "streamablehttp" | "sse" as scheme:
                transport = Http(server.url("url"), server.mapping("headers"), sse=scheme == "sse")
            case "ws" | "websocket":
                transport = Unsupported("websocket", "WebSocket is not supported yet; use http or stdio")
            case _:
                raise server.error(f"is {kind!r}; known are stdio, http and sse", "type")
        yield _with_own(server, ServerSource(name, transport), namespace)


def _process(node: Node, folder: str) -> Process:
    return Process(
        node.text("command"),
        node.texts("args"),
        node.mapping("env"),
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


def _with_own(server: Node, source: ServerSource, namespace: Namespace) -> ServerSource:
    """The source with what the keys of ours say."""
    return replace(
        source,
        sampling=server.choice("sampling", _SAMPLING),
        protocol=server.choice("protocol", _PROTOCOL),
        scope=server.choice("scope", _SCOPE) if server.value.get("scope") is not None else None,
        tenants=Audience(server.texts("tenants")) if server.value.get("tenants") is not None else EVERYBODY,
        presentation=presentation_of(server, namespace),
        breaker=_breaker(server),
        health=_health(server),
    )


def _breaker(server: Node) -> BreakerSettings | None:
    usual = BreakerSettings()
    if (node := server.switch("breaker", {"failures", "window_secs", "open_secs"})) is None:
        return None
    return BreakerSettings(
        node.count("failures", usual.failures),
        node.number("window_secs", usual.window),
        node.number("open_secs", usual.open),
    )


def _health(server: Node) -> HealthSettings | None:
    usual = HealthSettings()
    if (node := server.switch("health", {"interval_secs", "timeout_secs", "misses"})) is None:
        return None
    return HealthSettings(
        node.number("interval_secs", usual.interval),
        node.number("timeout_secs", usual.timeout),
        node.count("misses", usual.misses),
    )


def _with_token(headers: Mapping[str, str], token: str | None) -> Mapping[str, str]:
    return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}
