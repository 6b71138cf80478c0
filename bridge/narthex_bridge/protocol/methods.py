"""Requests and notifications of MCP clients, read into the effects they ask for."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import orjson

from narthex_bridge.protocol import jsonrpc, params
from narthex_bridge.protocol.effects import (
    CallTool,
    Complete,
    Discover,
    Effect,
    GetPrompt,
    Initialize,
    List,
    Listen,
    Ping,
    ReadResource,
    SetLogLevel,
    Subscribe,
    Unsubscribe,
)
from narthex_bridge.protocol.eras import Era, negotiate
from narthex_bridge.protocol.jsonrpc import Id, Notification, Request, RpcError
from narthex_bridge.protocol.params import as_id, invalid

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
DEFAULT_LOG_LEVEL = "info"
MAX_WATCHED = 1000

Reader = Callable[[Request], Effect]


def read(request: Request, era: Era) -> Effect:
    """The effect a request asks for. Raises RpcError where there is no such thing or it is malformed."""
    reader = (_STATELESS if era.stateless else _SESSION).get(request.method)
    if reader is None:
        raise RpcError(
            jsonrpc.METHOD_NOT_FOUND, f"The method {request.method[:100]!r} does not exist in version {era.version}."
        )
    return reader(request)


def cancelled_id(notification: Notification) -> Id | None:
    """The id of the request that a notification cancels, or None where it cancels none."""
    if notification.method != "notifications/cancelled":
        return None
    return as_id(notification.params.get("requestId"))


def _initialize(request: Request) -> Initialize:
    wanted = request.params.get("protocolVersion")
    if not isinstance(wanted, str):
        raise invalid('"protocolVersion" must be a string.')
    capabilities = params.child(request.params, "capabilities")
    return Initialize(negotiate(wanted), orjson.dumps(capabilities))


def _set_log_level(request: Request) -> SetLogLevel:
    level = request.params.get("level")
    if level not in LOG_LEVELS:
        raise invalid(f'"level" must be one of {", ".join(LOG_LEVELS)}.')
    return SetLogLevel(level)


def _list(kind: str) -> Reader:
    return lambda request: List(kind, params.optional_text(request.params, "cursor"))


def _call_tool(request: Request) -> CallTool:
    name, arguments = params.text(request.params, "name", "the name of a tool"), request.params.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise invalid('"arguments" must be an object.')
    source = b"{}" if arguments is None else request.arguments
    token, meta = params.progress_token(request), params.forwarded_meta(request)
    return CallTool(name, source, token, meta, params.retry(request))


def _read_resource(request: Request) -> ReadResource:
    uri = params.text(request.params, "uri", "the URI of a resource")
    return ReadResource(uri, params.forwarded_meta(request), params.retry(request))


def _get_prompt(request: Request) -> GetPrompt:
    name = params.text(request.params, "name", "the name of a prompt")
    arguments = params.texts(request.params, "arguments")
    return GetPrompt(name, arguments, params.forwarded_meta(request), params.retry(request))


def _complete(request: Request) -> Complete:
    reference, argument = params.child(request.params, "ref"), params.child(request.params, "argument")
    prompt = template = ""
    match reference.get("type"):
        case "ref/prompt":
            prompt = params.text(reference, "name", "the name of a prompt")
        case "ref/resource":
            template = params.text(reference, "uri", "the URI template of a resource")
        case _:
            raise invalid('"ref" must have the type "ref/prompt" or "ref/resource".')
    name, value = params.text(argument, "name", "the name of an argument"), argument.get("value")
    if not isinstance(value, str):
        raise invalid('"argument" must have a "value", what is typed so far.')
    known = params.texts(params.child(request.params, "context"), "arguments")
    return Complete(prompt, template, name, value, known)


def _listen(request: Request) -> Listen:
    wanted = params.child(request.params, "notifications")
    uris = wanted.get("resourceSubscriptions", [])
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
        raise invalid('"resourceSubscriptions" must be an array of URIs.')
    if len(uris) > MAX_WATCHED:
        raise invalid(f"At most {MAX_WATCHED} resources can be watched by one request; these are {len(uris)}.")
    kinds = (kind for kind in ("tools", "resources", "prompts") if wanted.get(f"{kind}ListChanged") is True)
    return Listen(tuple(kinds), tuple(dict.fromkeys(uris)))


_BOTH: Mapping[str, Reader] = {
    "tools/list": _list("tools"),
    "tools/call": _call_tool,
    "resources/list": _list("resources"),
    "resources/templates/list": _list("templates"),
    "resources/read": _read_resource,
    "prompts/list": _list("prompts"),
    "prompts/get": _get_prompt,
    "completion/complete": _complete,
}
_SESSION: Mapping[str, Reader] = MappingProxyType(
    {
        **_BOTH,
        "initialize": _initialize,
        "ping": lambda _: Ping(),
        "logging/setLevel": _set_log_level,
        "resources/subscribe": lambda request: Subscribe(params.text(request.params, "uri", "the URI of a resource")),
        "resources/unsubscribe": lambda request: Unsubscribe(
            params.text(request.params, "uri", "the URI of a resource")
        ),
    }
)
_STATELESS: Mapping[str, Reader] = MappingProxyType(
    {**_BOTH, "server/discover": lambda _: Discover(), "subscriptions/listen": _listen}
)
SESSIONLESS = frozenset((*_BOTH, "ping"))
"""Methods of versions with sessions that mean the same without one."""

STATELESS_ONLY = frozenset(_STATELESS) - frozenset(_SESSION)
METHODS = frozenset((*_SESSION, *_STATELESS))
