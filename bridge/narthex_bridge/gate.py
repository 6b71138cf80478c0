"""What every HTTP request passes first: where it comes from, who sends it, what it is called."""

import ipaddress
import re
import uuid
from collections.abc import Mapping
from urllib.parse import urlsplit

from narthex_bridge.caller import Authenticate, Caller
from narthex_bridge.config import BridgeConfig
from narthex_bridge.faces.refusal import Refusal
from narthex_bridge.http import HttpResponse
from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.jsonrpc import RpcError

_SANE_ID = re.compile(r"[!-~]{1,128}")


def refusal(status: int, text: str, headers: tuple[tuple[str, str], ...] = (), code: int = 0) -> HttpResponse:
    """An HTTP error whose body is a JSON-RPC error without an id."""
    return HttpResponse(status, jsonrpc.error(None, RpcError(code or jsonrpc.INVALID_REQUEST, text)), headers=headers)


def request_id(headers: Mapping[str, str]) -> str:
    """The request's own x-request-id where it is 1 to 128 visible ASCII characters, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


class Gate:
    """Refuses foreign browsers (DNS rebinding, cross-site calls) and unknown credentials."""

    def __init__(self, config: BridgeConfig, authenticate: Authenticate) -> None:
        self._authenticate = authenticate
        self._origins = frozenset(config.allowed_origins)
        self._hosts = frozenset(host.lower() for host in config.allowed_hosts)
        # Behind a public address any name may lead here; on loopback only a rebound name can be another one.
        self._check_host = is_loopback(config.http.host) or bool(self._hosts)

    def admit(self, headers: Mapping[str, str], key_header: str = "") -> Caller:
        """The caller, by Authorization or the key in `key_header`. Raises Refusal for a request that may not pass."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._check_host and not self._known_host(host):
            raise Refusal(403, "This Host is not allowed here; see allowed_hosts.")
        if origin is not None and origin not in self._origins and not self._local_origin(origin):
            raise Refusal(403, "This Origin is not allowed here; see allowed_origins.")
        given = headers.get("authorization", "")
        if not given and (key := headers.get(key_header, "")):
            given = f"Bearer {key}"
        caller = self._authenticate(given)
        if caller is None:
            problem = ', error="invalid_token"' if given else ""
            challenge = ("www-authenticate", f'Bearer realm="narthex"{problem}')
            raise Refusal(401, "A valid API key is needed: Authorization: Bearer <key>.", (challenge,))
        return caller

    def _known_host(self, host: str) -> bool:
        name = _hostname(f"//{host}")
        return is_loopback(name) or name in self._hosts or host.lower() in self._hosts

    def _local_origin(self, origin: str) -> bool:
        return origin.startswith(("http://", "https://")) and is_loopback(_hostname(origin))


def is_loopback(name: str) -> bool:
    """Whether a host name or address always means this machine."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
