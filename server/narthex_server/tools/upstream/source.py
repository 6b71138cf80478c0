"""Which MCP servers to forward: mistral.rs's `mcp-config.json` and the common `mcpServers` form, as they are."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast, get_args
from urllib.parse import urlsplit

from narthex_server.errors import InvalidRequest, Violation

DEFAULT_CALL_TIMEOUT = 30.0
DEFAULT_START_TIMEOUT = 20.0
DEFAULT_CONCURRENCY = 64

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MISTRAL_SERVER = {
    "id", "name", "source", "enabled", "tool_prefix", "bearer_token", "resources", "sampling", "protocol"
}  # fmt: skip

Sampling = Literal["client", "model", "refuse"]
"""Who answers an upstream's sampling requests: the caller of the tool, a model of this server, or nobody."""

Protocol = Literal["auto", "handshake", "2025-11-25", "2026-07-28"]
"""What is spoken: what the server knows best, a version that begins with `initialize`, or one version and no other."""

Choice = TypeVar("Choice", bound=str)

_SAMPLING = cast(tuple[Sampling, ...], get_args(Sampling))
_PROTOCOL = cast(tuple[Protocol, ...], get_args(Protocol))


class SourceError(InvalidRequest):
    """The configuration of upstreams is wrong; the text names the document, the key and what fits."""

    reason = "INVALID_MCP_CONFIG"


@dataclass(frozen=True, slots=True)
class Process:
    """A server run as a child and spoken to over its standard input and output."""

    command: str
    args: tuple[str, ...] = field(default=(), repr=False)  # tokens are passed there too
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None


@dataclass(frozen=True, slots=True)
class Http:
    """A server behind a URL: Streamable HTTP, or the older HTTP+SSE when `sse`."""

    url: str = field(repr=False)  # may hold a key in its query
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    sse: bool = False


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A transport that we cannot speak; such a server is listed with the reason and never started."""

    kind: str
    reason: str


Transport = Process | Http | Unsupported


@dataclass(frozen=True, slots=True)
class ServerSource:
    """One upstream; times in seconds, `prefix` as in `tool_prefix` (None where not given)."""

    name: str
    transport: Transport
    prefix: str | None = None
    call_timeout: float = DEFAULT_CALL_TIMEOUT
    start_timeout: float = DEFAULT_START_TIMEOUT
    concurrency: int = DEFAULT_CONCURRENCY
    sampling: Sampling = "client"
    protocol: Protocol = "auto"


def parse_sources(
    document: Mapping[str, Any], where: str = "mcp-config", environ: Mapping[str, str] = os.environ
) -> tuple[ServerSource, ...]:
    """The enabled servers of a document in either form, in its order; `where` is what errors call the document.

    `${NAME}` and `${NAME:-default}` in any text stand for environment variables.

    Raises:
        SourceError: a key is missing, of the wrong type or not known, a name is used twice, a variable is not set.
    """
    root = _Node(document, where, environ)
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


def _mistral(root: "_Node") -> Iterator[ServerSource]:
    root.only({"servers", "auto_register_tools", "tool_timeout_secs", "max_concurrent_calls"})
    root.flag("auto_register_tools", True)  # forwarding is all we do with a server: nothing else to switch
    call_timeout = root.number("tool_timeout_secs", DEFAULT_CALL_TIMEOUT)
    concurrency = int(root.number("max_concurrent_calls", DEFAULT_CONCURRENCY))
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
                source.only({"type", "command", "args", "env", "work_dir"})
                transport = Process(
                    source.text("command"), source.texts("args"), source.mapping("env"), source.optional("work_dir")
                )
            case "Http":
                source.only({"type", "url", "headers", "timeout_secs"})
                transport = Http(source.url("url"), _with_token(source.mapping("headers"), token))
                limit = source.number("timeout_secs", call_timeout)
            case "WebSocket":
                transport = Unsupported("websocket", "WebSocket is not supported yet; use Http or Process")
            case _:
                raise source.error(f"is {kind!r}; known are Process, Http and WebSocket", "type")
        prefix = server.optional("tool_prefix")
        yield ServerSource(
            server.text("name"),
            transport,
            prefix,
            limit,
            concurrency=concurrency,
            sampling=server.choice("sampling", _SAMPLING),
            protocol=server.choice("protocol", _PROTOCOL),
        )


def _common(root: "_Node") -> Iterator[ServerSource]:
    # files of this form carry keys of the program they were written for: unknown ones are not ours to judge
    servers = root.child("mcpServers")
    for name in servers.value:
        server = servers.child(name)
        if server.flag("disabled", False) or not server.flag("enabled", True):
            continue
        kind = server.optional("type") or server.optional("transport") or ("http" if "url" in server.value else "stdio")
        transport: Transport
        match kind.lower().replace("_", "-"):
            case "stdio":
                transport = Process(
                    server.text("command"), server.texts("args"), server.mapping("env"), server.optional("cwd")
                )
            case "http" | "streamable-http" | "streamablehttp" | "sse" as scheme:
                transport = Http(server.url("url"), server.mapping("headers"), sse=scheme == "sse")
            case "ws" | "websocket":
                transport = Unsupported("websocket", "WebSocket is not supported yet; use http or stdio")
            case _:
                raise server.error(f"is {kind!r}; known are stdio, http and sse", "type")
        yield ServerSource(
            name,
            transport,
            sampling=server.choice("sampling", _SAMPLING),
            protocol=server.choice("protocol", _PROTOCOL),
        )


def _with_token(headers: Mapping[str, str], token: str | None) -> Mapping[str, str]:
    return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}


class _Node:
    """One JSON object of the document, and where it stands in it."""

    def __init__(self, value: object, path: str, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        if not isinstance(value, Mapping):
            raise self.error("must be an object")
        self.value: Mapping[str, Any] = value

    def error(self, problem: str, key: str = "") -> SourceError:
        path = f"{self._path}.{key}" if key else self._path
        return SourceError(f"{path}: {problem}", violations=(Violation(path, problem),))

    def only(self, known: set[str]) -> None:
        if unknown := [key for key in self.value if key not in known]:
            raise self.error(f"is not known; known are {', '.join(sorted(known))}", unknown[0])

    def child(self, key: str) -> "_Node":
        if key not in self.value:
            raise self.error("is missing", key)
        return _Node(self.value[key], f"{self._path}.{key}", self._environ)

    def items(self, key: str) -> Iterator["_Node"]:
        values = self.value[key]
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise self.error("must be an array", key)
        for index, value in enumerate(values):
            yield _Node(value, f"{self._path}.{key}[{index}]", self._environ)

    def text(self, key: str) -> str:
        if not (text := self.optional(key)):
            raise self.error("is missing or empty", key)
        return text

    def optional(self, key: str) -> str | None:
        value = self.value.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error("must be a string", key)
        return self._expand(value, key)

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.value.get(key) or ()
        if isinstance(values, str) or not all(isinstance(v, str) for v in values):
            raise self.error("must be an array of strings", key)
        return tuple(self._expand(v, f"{key}[{i}]") for i, v in enumerate(values))

    def mapping(self, key: str) -> Mapping[str, str]:
        values = self.value.get(key) or {}
        if not isinstance(values, Mapping) or not all(isinstance(v, str) for v in values.values()):
            raise self.error("must be an object of strings", key)
        return MappingProxyType({name: self._expand(v, f"{key}.{name}") for name, v in values.items()})

    def url(self, key: str) -> str:
        url = self.text(key)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise self.error("must be a URL that starts with http:// or https://", key)
        return url

    def flag(self, key: str, default: bool) -> bool:
        value = self.value.get(key, default)
        if not isinstance(value, bool):
            raise self.error("must be true or false", key)
        return value

    def number(self, key: str, default: float) -> float:
        value = self.value.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self.error("must be a number above 0", key)
        return value

    def choice(self, key: str, known: tuple[Choice, ...]) -> Choice:
        """One of `known`, the first of them where the key is not there."""
        value = self.optional(key)
        if value is None:
            return known[0]
        for one in known:
            if one == value:
                return one
        raise self.error(f"is {value!r}; known are {', '.join(known)}", key)

    def _expand(self, text: str, key: str) -> str:
        def variable(match: re.Match[str]) -> str:
            value = self._environ.get(match[1], match[2])
            if value is None:
                raise self.error(f"needs the environment variable {match[1]}, which is not set", key)
            return value

        return _VARIABLE.sub(variable, text)
