"""Who may call, and on whose behalf."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from grpc.aio import ServicerContext
from narthex.keys import Key, KeyRing

from narthex_server.errors import InvalidRequest, PermissionDenied, Unauthenticated, Violation
from narthex_server.interceptors.around import AroundInterceptor, Traffic
from narthex_server.principal import CALLER, LOCAL, Principal

AUTHORIZATION = "authorization"
ASSERTED = "x-narthex-principal"
RELAY = "/narthex.v1.ToolService/RelayCalls"
OPEN = ("/grpc.health.v1.", "/grpc.reflection.")


class AuthInterceptor(AroundInterceptor):
    """Finds the caller by its bearer key; with `required` a call without a known key is refused.

    Only a key marked `delegate` may say, in `x-narthex-principal`, for whom it calls; from anyone else that is ignored.
    A stream that carries other people's calls is for such keys alone.
    """

    def __init__(self, keys: KeyRing, *, required: bool) -> None:
        self._keys = keys
        self._required = required

    @asynccontextmanager
    async def around(self, method: str, context: ServicerContext[Any, Any], traffic: Traffic) -> AsyncIterator[None]:
        if not method.startswith(OPEN):
            given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            key = self._key(given.get(AUTHORIZATION, ""))
            if method == RELAY and key is not None and not key.delegate:
                raise PermissionDenied("Only a delegate key may relay the calls of others; make each call by itself.")
            CALLER.set(self._caller(key, given.get(ASSERTED, "")))
        yield

    def _key(self, authorization: str) -> Key | None:
        scheme, _, token = authorization.partition(" ")
        key = self._keys.principal(token.strip()) if scheme.lower() == "bearer" else None
        if key is None and self._required:
            lack = "is not a known key" if authorization else "is missing"
            raise Unauthenticated(f"The metadata `authorization: Bearer <API key>` {lack}.")
        return key

    def _caller(self, key: Key | None, asserted: str) -> Principal:
        if key is not None:
            return _asserted(asserted) if key.delegate and asserted else _own(key)
        return LOCAL


def _own(key: Key) -> Principal:
    return Principal(key.name, key.tenant)


def _asserted(text: str) -> Principal:
    try:
        match json.loads(text):
            case {"name": str(name), "tenant": str(tenant)} if name and tenant:
                return Principal(name, tenant)
    except ValueError:
        pass
    violation = Violation(ASSERTED, 'must be a JSON object with the non-empty strings "name" and "tenant"')
    raise InvalidRequest(f"{ASSERTED} {violation.description}", violations=[violation])
