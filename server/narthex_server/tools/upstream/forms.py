"""Which MCP servers to forward: mistral.rs's `mcp-config.json` and the common `mcpServers` form, as they are."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast, get_args

from narthex_server.tools.audience import EVERYBODY, Audience
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.server import Scope
from narthex_server.tools.upstream import kinds, processes
from narthex_server.tools.upstream.breaker import BreakerSettings
from narthex_server.tools.upstream.health import HealthSettings
from narthex_server.tools.upstream.node import Node
from narthex_server.tools.upstream.presenting import NAMESPACE, PRESENTATION, Namespace, namespace_of, presentation_of
from narthex_server.tools.upstream.secrets import SecretFile, Text
from narthex_server.tools.upstream.source import (
    DEFAULT_CALL_TIMEOUT,
    DEFAULT_CONCURRENCY,
    Narthex,
    OpenApi,
    Protocol,
    Sampling,
    ServerSource,
    Transport,
)

_OWN = ("sampling", "protocol", "scope", "tenants", "breaker", "health", "cache", *PRESENTATION)
"""Keys of ours, which either form may have beside its own."""

_MISTRAL_SERVER = {"id", "name", "source", "enabled", "bearer_token", "resources", *_OWN}

_SAMPLING = cast(tuple[Sampling, ...], get_args(Sampling))
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
        headers = source.secrets("headers")
        if (token := server.secret("bearer_token")) is not None:
            headers = {**headers, "Authorization": _bearer(token)}
        limit = call_timeout
        transport: Transport
        match kind := source.text("type"):
            case "Process":
                source.only({"type", "command", "args", "env", "work_dir", *processes.CONFINED})
                transport = processes.process(source, "work_dir")
            case "Http":
                source.only({"type", "url", "timeout_secs", *kinds.REACHED})
                transport = kinds.http(source, headers)
                limit = source.number("timeout_secs", call_timeout)
            case "WebSocket":
                source.only({"type", "url", "timeout_secs", *kinds.REACHED})
                transport = kinds.websocket(source, headers)
                limit = source.number("timeout_secs", call_timeout)
            case "Narthex":
                source.only({"type", "url", "api_key", "tls", "auth", "delegate"})
                transport = kinds.narthex(source)
            case "OpenApi":
                source.only({"type", "url", "document", "operations", *kinds.REACHED})
                transport = kinds.openapi(source, headers)
            case _:
                raise source.error(f"is {kind!r}; known are Process, Http, WebSocket, Narthex and OpenApi", "type")
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
        kind = server.optional("type") or server.optional("transport") or _kind(server)
        transport: Transport
        match kind.lower().replace("_", "-"):
            case "stdio":
                transport = processes.process(server, "cwd")
            case "http" | "streamable-http" | "streamablehttp" | "sse" as scheme:
                transport = kinds.http(server, server.secrets("headers"), sse=scheme == "sse")
            case "ws" | "websocket":
                transport = kinds.websocket(server, server.secrets("headers"))
            case "narthex":
                transport = kinds.narthex(server)
            case "openapi":
                transport = kinds.openapi(server, server.secrets("headers"))
            case _:
                raise server.error(f"is {kind!r}; known are stdio, http, sse, websocket, narthex and openapi", "type")
        yield _with_own(server, ServerSource(name, transport), namespace)


def _with_own(server: Node, source: ServerSource, namespace: Namespace) -> ServerSource:
    """The source with what the keys of ours say."""
    scope = server.choice("scope", _SCOPE) if server.value.get("scope") is not None else None
    if scope not in (None, "shared") and isinstance(source.transport, Narthex | OpenApi):
        raise server.error("can only be shared for another narthex and for an API, which keep callers apart", "scope")
    return replace(
        source,
        sampling=server.choice("sampling", _SAMPLING),
        protocol=server.choice("protocol", _PROTOCOL),
        scope=scope,
        tenants=Audience(server.texts("tenants")) if server.value.get("tenants") is not None else EVERYBODY,
        presentation=presentation_of(server, namespace),
        breaker=_breaker(server),
        health=_health(server),
        cache=_cache(server),
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


def _cache(server: Node) -> CacheRule | None:
    node = server.switch("cache", {"tools", "ttl_secs"})
    if node is None:
        return None
    if node.value and server.choice("sampling", _SAMPLING) == "model":
        raise server.error("cannot stand beside sampling by a model, whose answers differ from call to call", "cache")
    ttl = node.number("ttl_secs", 0.0)
    return CacheRule(node.texts("tools"), ttl or None)


def _bearer(token: Text) -> Text:
    return replace(token, before="Bearer ") if isinstance(token, SecretFile) else f"Bearer {token}"


def _kind(server: Node) -> str:
    url = server.value.get("url")
    if isinstance(url, str):
        return {"ws": "websocket", "wss": "websocket", "grpc": "narthex", "grpcs": "narthex"}.get(
            url.partition(":")[0].lower(), "http"
        )
    return "stdio"
