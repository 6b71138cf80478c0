"""The way of a request into the bridge, cheapest checks first."""

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from narthex_bridge.caller import LOCAL, Caller
from narthex_bridge.gate import limits
from narthex_bridge.gate.addresses import Addresses
from narthex_bridge.gate.credentials import Credentials
from narthex_bridge.gate.hosts import Hosts
from narthex_bridge.gate.limits import Limits
from narthex_bridge.gate.origins import Origins
from narthex_bridge.http.messages import HttpResponse
from narthex_bridge.http.refusal import Header, Reason, Refused

_SANE_ID = re.compile(r"[!-~]{1,128}")


def request_id(headers: Mapping[str, str]) -> str:
    """The request's own x-request-id where it is 1 to 128 visible ASCII characters, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request before anything is known about it: its headers, in lower case, and the other end of its connection."""

    headers: Mapping[str, str]
    peer: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who may pass, and what is to be told with the answer."""

    caller: Caller
    headers: tuple[Header, ...]


class Gate:
    """Refuses foreign names and web pages, too many requests, and unknown credentials."""

    def __init__(
        self,
        hosts: Hosts,
        origins: Origins,
        addresses: Addresses,
        limits: Limits,
        credentials: Credentials,
        refused: Callable[[Reason], None],
    ) -> None:
        """`refused` is told why a request does not pass."""
        self._hosts = hosts
        self._origins = origins
        self._addresses = addresses
        self._limits = limits
        self._credentials = credentials
        self._refused = refused

    async def admit(self, arrival: Arrival, *, open: bool = False) -> Admitted:
        """Lets a request pass, on an `open` route without a credential. Raises Refused."""
        readable: tuple[Header, ...] = ()
        try:
            self._hosts.check(arrival.headers.get("host", ""))
            if (origin := arrival.headers.get("origin")) is not None:
                readable = self._origins.check(origin)
            forwarded = arrival.headers.get("x-forwarded-for", "")
            allowance = await self._limits.arrive(self._addresses.client(arrival.peer, forwarded))
            if open:
                return Admitted(LOCAL, (*readable, *limits.headers(allowance)))
            caller = await self._credentials.caller(arrival.headers)
            allowance = limits.tighter(allowance, await self._limits.admit(caller))
        except Refused as refused:
            self._refused(refused.reason)
            raise Refused(refused.reason, refused.refusal.telling(readable)) from None
        return Admitted(caller, (*readable, *limits.headers(allowance)))

    def preflight(self, arrival: Arrival, methods: Iterable[str]) -> HttpResponse:
        """What a browser may send to a route of these methods. Raises Refused."""
        try:
            self._hosts.check(arrival.headers.get("host", ""))
            readable = self._origins.check(arrival.headers.get("origin", ""))
        except Refused as refused:
            self._refused(refused.reason)
            raise
        answer = self._origins.preflight(methods, arrival.headers.get("access-control-request-headers", ""))
        return replace(answer, headers=(*answer.headers, *readable))

    async def close(self) -> None:
        await self._limits.close()
        await self._credentials.close()
