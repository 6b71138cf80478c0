"""From a wire spec to the source of an upstream."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from urllib.parse import urlsplit

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from narthex.v1 import upstream_pb2 as wire

from narthex_server.errors import Violation
from narthex_server.pipelines.request import refuse
from narthex_server.tools.audience import EVERYBODY, Audience
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.server import Scope
from narthex_server.tools.upstream.breaker import BreakerSettings
from narthex_server.tools.upstream.health import HealthSettings
from narthex_server.tools.upstream.limits import Limits
from narthex_server.tools.upstream.sandbox import Sandbox, SandboxMode
from narthex_server.tools.upstream.source import Http, Process, Protocol, Sampling, ServerSource

NAME = re.compile(r"(?!.*__)[A-Za-z0-9_-]{1,32}")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
MOST_SECONDS = 86400

_SCOPES: Mapping[int, Scope | None] = MappingProxyType(
    {
        wire.UPSTREAM_SCOPE_UNSPECIFIED: None,
        wire.UPSTREAM_SCOPE_SHARED: "shared",
        wire.UPSTREAM_SCOPE_TENANT: "tenant",
        wire.UPSTREAM_SCOPE_SESSION: "session",
    }
)
_SAMPLING: Mapping[int, Sampling] = MappingProxyType(
    {
        wire.UPSTREAM_SAMPLING_UNSPECIFIED: "client",
        wire.UPSTREAM_SAMPLING_CLIENT: "client",
        wire.UPSTREAM_SAMPLING_MODEL: "model",
        wire.UPSTREAM_SAMPLING_REFUSE: "refuse",
    }
)
_SANDBOXES: Mapping[int, SandboxMode | None] = MappingProxyType(
    {
        wire.SANDBOX_MODE_UNSPECIFIED: None,
        wire.SANDBOX_MODE_OFF: "off",
        wire.SANDBOX_MODE_AUTO: "auto",
        wire.SANDBOX_MODE_ON: "on",
    }
)
_PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {"": "auto", "auto": "auto", "handshake": "handshake", "2025-11-25": "2025-11-25", "2026-07-28": "2026-07-28"}
)


def source_from(spec: wire.UpstreamSpec) -> ServerSource:
    """What to connect to; raises InvalidRequest with the paths of all fields at fault."""
    refuse(_violations(spec))
    usual = ServerSource(spec.name, _transport(spec))
    return replace(
        usual,
        presentation=Presentation(spec.tool_prefix) if spec.HasField("tool_prefix") else usual.presentation,
        call_timeout=_seconds(spec, "call_timeout", usual.call_timeout),
        concurrency=spec.max_concurrent_calls or usual.concurrency,
        sampling=_SAMPLING[spec.sampling],
        protocol=_PROTOCOLS[spec.protocol],
        scope=_SCOPES[spec.scope],
        tenants=Audience(tuple(spec.tenants)) if spec.tenants else EVERYBODY,
        breaker=_breaker(spec.breaker),
        health=_health(spec.health),
        cache=_cache(spec.cache),
    )


def _violations(spec: wire.UpstreamSpec) -> Iterator[Violation]:
    if not NAME.fullmatch(spec.name):
        yield Violation("spec.name", "must be 1 to 32 letters, digits, `_` (not two in a row) and `-`")
    match spec.WhichOneof("source"):
        case "process":
            yield from _process_violations(spec.process)
        case "http":
            yield from _http_violations(spec.http)
        case _:
            yield Violation("spec.source", "is missing: give process or http")
    if spec.scope not in _SCOPES:
        yield Violation("spec.scope", f"is {spec.scope}, which is not known")
    if spec.sampling not in _SAMPLING:
        yield Violation("spec.sampling", f"is {spec.sampling}, which is not known")
    if spec.protocol not in _PROTOCOLS:
        yield Violation("spec.protocol", f"must be one of {', '.join(name for name in _PROTOCOLS if name)}")
    yield from _duration_violations(spec, "spec", "call_timeout")
    yield from _duration_violations(spec.breaker, "spec.breaker", "window", "open")
    yield from _duration_violations(spec.cache, "spec.cache", "ttl")
    if spec.cache.tools and spec.sampling == wire.UPSTREAM_SAMPLING_MODEL:
        yield Violation("spec.cache.tools", "cannot stand beside sampling by a model, whose answers differ")
    yield from _duration_violations(spec.health, "spec.health", "interval", "timeout")


def _process_violations(process: wire.ProcessSource) -> Iterator[Violation]:
    if not process.command:
        yield Violation("spec.process.command", "is missing")
    texts = {
        "command": process.command,
        "working_directory": process.working_directory,
        **{f"arguments[{index}]": text for index, text in enumerate(process.arguments)},
        **{f"sandbox.writable[{index}]": text for index, text in enumerate(process.sandbox.writable)},
        **{f"sandbox.readable[{index}]": text for index, text in enumerate(process.sandbox.readable)},
        **{f"environment[{name[:40]!r}]": value for name, value in process.environment.items()},
    }
    for field, text in texts.items():
        if "\0" in text:
            yield Violation(f"spec.process.{field}", "must not hold a NUL character")
    for name in process.environment:
        if not name or "=" in name or "\0" in name:
            yield Violation("spec.process.environment", "has a name that is empty or holds `=` or a NUL character")
    if process.sandbox.mode not in _SANDBOXES:
        yield Violation("spec.process.sandbox.mode", f"is {process.sandbox.mode}, which is not known")


def _http_violations(http: wire.HttpSource) -> Iterator[Violation]:
    try:
        parts = urlsplit(http.url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and http.url.isprintable()
        parts.port  # noqa: B018 (raises where it is no number)
    except ValueError:
        fits = False
    if not fits:
        yield Violation("spec.http.url", "must be a URL that starts with http:// or https://")
    for name, value in http.headers.items():
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            yield Violation(f"spec.http.headers[{name[:40]!r}]", "is not a header of HTTP")
    if not HEADER_VALUE.fullmatch(http.bearer_token) or " " in http.bearer_token:
        yield Violation("spec.http.bearer_token", "must be one word of visible ASCII characters")


def _duration_violations(message: Message, path: str, *fields: str) -> Iterator[Violation]:
    for field in fields:
        if message.HasField(field) and not 0 < _length(getattr(message, field)) <= MOST_SECONDS:
            yield Violation(f"{path}.{field}", f"must be above 0 and at most {MOST_SECONDS} s")


def _transport(spec: wire.UpstreamSpec) -> Process | Http:
    if spec.WhichOneof("source") == "process":
        process = spec.process
        return Process(
            process.command,
            tuple(process.arguments),
            MappingProxyType(dict(process.environment)),
            process.working_directory or None,
            tuple(process.environment_allow) or None,
            _limits(process.limits),
            _sandbox(process.sandbox),
        )
    token = {"Authorization": f"Bearer {spec.http.bearer_token}"} if spec.http.bearer_token else {}
    return Http(spec.http.url, MappingProxyType({**spec.http.headers, **token}), spec.http.sse)


def _limits(spec: wire.ProcessLimits) -> Limits | None:
    if spec.disabled:
        return None
    return Limits(spec.memory_mb, spec.cpu_secs, spec.open_files, spec.processes, spec.file_mb)


def _sandbox(spec: wire.SandboxSpec) -> Sandbox:
    return Sandbox(_SANDBOXES[spec.mode], spec.network, tuple(spec.writable), tuple(spec.readable))


def _breaker(spec: wire.BreakerSpec) -> BreakerSettings | None:
    usual = BreakerSettings()
    if spec.disabled:
        return None
    return BreakerSettings(
        spec.failures or usual.failures, _seconds(spec, "window", usual.window), _seconds(spec, "open", usual.open)
    )


def _health(spec: wire.HealthSpec) -> HealthSettings | None:
    usual = HealthSettings()
    if spec.disabled:
        return None
    return HealthSettings(
        _seconds(spec, "interval", usual.interval),
        _seconds(spec, "timeout", usual.timeout),
        spec.misses or usual.misses,
    )


def _cache(spec: wire.CacheSpec) -> CacheRule | None:
    ttl = _length(spec.ttl) if spec.HasField("ttl") else None
    return None if spec.disabled else CacheRule(tuple(spec.tools), ttl)


def _seconds(message: Message, field: str, usual: float) -> float:
    return _length(getattr(message, field)) if message.HasField(field) else usual


def _length(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
