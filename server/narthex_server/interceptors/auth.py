"""Who may call, and on whose behalf."""

import json
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Any

from grpc.aio import ServicerContext
from narthex.keys import Key, KeyRing
from narthex.scopes import ALL_TOOLS, ToolScope

from narthex_server.errors import InvalidRequest, PermissionDenied, Unauthenticated, Violation
from narthex_server.interceptors.around import AroundInterceptor, Traffic
from narthex_server.principal import ASSERTED_HEADER, CALLER, LOCAL, SESSION, SESSION_HEADER, Principal

AUTHORIZATION = "authorization"
RELAY = "/narthex.v1.ToolService/RelayCalls"
OPEN = ("/grpc.health.v1.", "/grpc.reflection.")


class AuthInterceptor(AroundInterceptor):
    """Finds the caller by its bearer key; with `required` a call without a known key is refused.

    Only a key marked `delegate` may say, in `x-narthex-principal`, for whom it calls, which is never an admin. Of what
    anyone else says there counts only that a caller may use fewer tools, so that a bridge's callers keep to theirs
    whatever its own key is. A stream that carries other people's calls is for such keys alone.
    """

    def __init__(self, keys: KeyRing, *, required: bool) -> None:
        self._keys = keys
        self._required = required

    def around(
        self, method: str, context: ServicerContext[Any, Any], traffic: Traffic
    ) -> AbstractAsyncContextManager[None]:
        if not method.startswith(OPEN):
            given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            key = self._key(given.get(AUTHORIZATION, ""))
            if method == RELAY and key is not None and not key.delegate:
                raise PermissionDenied("Only a delegate key may relay the calls of others; make each call by itself.")
            CALLER.set(self._caller(key, given.get(ASSERTED_HEADER, "")))
            SESSION.set(_session(given.get(SESSION_HEADER, "")))
        return nullcontext()

    def _key(self, authorization: str) -> Key | None:
        scheme, _, token = authorization.partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        key = self._keys.principal(token)
        if key is None and self._required:
            lack = (
                "has expired" if self._keys.expired(token) else "is not a known key" if authorization else "is missing"
            )
            raise Unauthenticated(f"The metadata `authorization: Bearer <API key>` {lack}.")
        return key

    def _caller(self, key: Key | None, asserted: str) -> Principal:
        caller = Principal(key.name, key.tenant, key.tools, key.admin, key.name) if key else LOCAL
        if not asserted:
            return caller
        spoken_for = _asserted(asserted)
        if key is not None and key.delegate:
            if spoken_for is None:
                raise InvalidRequest(f"{ASSERTED_HEADER} {_FORM.description}", violations=[_FORM])
            own = self._keys.named(spoken_for.name)  # bridges may ask for the same keys
            known = own is not None and not own.delegate and own.tenant == spoken_for.tenant
            return replace(spoken_for, key=spoken_for.name if known else "", voucher=key.name)
        if spoken_for is not None and caller.tools == ALL_TOOLS:
            return replace(caller, tools=spoken_for.tools, admin=False)
        return caller


_FORM = Violation(
    ASSERTED_HEADER,
    'must be a JSON object with the non-empty strings "name" and "tenant", and the list of strings "tools" or none',
)


_NAME = Violation(SESSION_HEADER, "must be at most 128 visible ASCII characters")


def _session(name: str) -> str:
    """The name of a session, which any caller may choose as it likes: it means nothing beside another caller."""
    if len(name) > 128 or not all("!" <= letter <= "~" for letter in name):
        raise InvalidRequest(f"{SESSION_HEADER} {_NAME.description}", violations=[_NAME])
    return name


def _asserted(text: str) -> Principal | None:
    try:
        match json.loads(text):
            case {"name": str(name), "tenant": str(tenant), **more} if name and tenant:
                return Principal(name, tenant, _tools(more.get("tools", ALL_TOOLS.globs)))
    except (ValueError, RecursionError):
        pass
    return None


def _tools(globs: object) -> ToolScope:
    if not isinstance(globs, list | tuple) or not all(isinstance(glob, str) for glob in globs):
        raise ValueError
    return ToolScope(tuple(globs))
