"""What a configuration says of an upstream that is reached over a network, the same in either form."""

import logging
from collections.abc import Mapping
from typing import get_args
from urllib.parse import urlsplit

from narthex_server.tools.upstream.auth import Auth, ClientCredentials, ClientMethod, Passthrough
from narthex_server.tools.upstream.node import Node
from narthex_server.tools.upstream.secrets import Text
from narthex_server.tools.upstream.source import Http, Narthex, OpenApi, WebSocket
from narthex_server.tools.upstream.tls import USUAL, Tls

REACHED = frozenset({"headers", "tls", "auth"})
"""Keys of whatever is reached over HTTP."""

_CLIENT = {"type", "client_id", "client_secret", "token_url", "issuer", "scope", "resource", "method"}

_log = logging.getLogger(__name__)


def http(node: Node, headers: Mapping[str, Text], *, sse: bool = False) -> Http:
    """From `url`, `tls` and `auth`."""
    return Http(node.url("url"), headers, sse, _tls(node), _auth(node, headers))


def websocket(node: Node, headers: Mapping[str, Text]) -> WebSocket:
    """From `url` and `tls`; raises SourceError for `auth`, whose tokens change while a connection lasts."""
    if "auth" in node.value:
        raise node.error("is not for WebSockets; give a header", "auth")
    return WebSocket(node.url("url", ("ws", "wss")), headers, _tls(node))


def narthex(node: Node) -> Narthex:
    """From `url`, `api_key`, `tls`, `delegate` and `auth`, which can only be `passthrough`."""
    url = urlsplit(node.url("url", ("grpc", "grpcs")))
    if url.port is None or url.path.strip("/") or url.query or "@" in url.netloc:
        raise node.error("must be grpc://HOST:PORT or grpcs://HOST:PORT", "url")
    tls, auth = _tls(node), _auth(node, {})
    if not tls.verify:
        raise node.error("verify cannot be false over gRPC; name the certificate's authority in ca", "tls")
    if tls != USUAL and url.scheme != "grpcs":
        raise node.error("needs a URL that starts with grpcs://", "tls")
    if isinstance(auth, ClientCredentials):
        raise node.error("can only be passthrough for a narthex; give an api_key otherwise", "auth")
    return Narthex(
        url.netloc,
        secure=url.scheme == "grpcs",
        api_key=node.secret("api_key"),
        tls=tls,
        delegate=node.flag("delegate", False),
        passthrough=auth is not None,
    )


def openapi(node: Node, headers: Mapping[str, Text]) -> OpenApi:
    """From `document`, `url`, `tls`, `auth`, and `operations` with `include` and `exclude`."""
    url = node.url("url") if "url" in node.value else None
    if url is not None and (urlsplit(url).query or urlsplit(url).fragment):
        raise node.error("must end with a path, to which those of the operations are added", "url")
    chosen = node.child("operations") if "operations" in node.value else Node({}, node.path)
    chosen.only({"include", "exclude"})
    return OpenApi(
        node.text("document"),
        url,
        headers,
        _tls(node),
        _auth(node, headers),
        chosen.texts("include"),
        chosen.texts("exclude"),
    )


def _tls(node: Node) -> Tls:
    if "tls" not in node.value:
        return USUAL
    given = node.child("tls")
    given.only({"ca", "cert", "key", "verify", "server_name"})
    cert, key, verify = given.optional("cert"), given.optional("key"), given.flag("verify", True)
    if key is not None and cert is None:
        raise given.error("is missing, and key belongs to it", "cert")
    if not verify:
        if given.optional("ca") is not None:
            raise given.error("says to trust anybody, and ca names whom to trust; give one of them", "verify")
        _log.warning("%s.tls: certificates are not checked; whoever sits between can read and change all", node.path)
    return Tls(given.optional("ca"), cert, key, verify, given.optional("server_name"))


def _auth(node: Node, headers: Mapping[str, Text]) -> Auth | None:
    if "auth" not in node.value:
        return None
    given = node.child("auth")
    match kind := given.text("type"):
        case "passthrough":
            given.only({"type"})
            return Passthrough()
        case "client_credentials":
            given.only(_CLIENT)
            if any(name.lower() == "authorization" for name in headers):
                raise node.error("says what authorization is sent, and so does headers; give one of them", "auth")
            secret = given.secret("client_secret")
            if secret is None:
                raise given.error("is missing", "client_secret")
            return ClientCredentials(
                given.text("client_id"),
                secret,
                given.url("token_url") if "token_url" in given.value else None,
                given.url("issuer") if "issuer" in given.value else None,
                given.optional("scope"),
                given.optional("resource"),
                given.choice("method", _METHODS),
            )
        case _:
            raise given.error(f"is {kind!r}; known are client_credentials and passthrough", "type")


_METHODS: tuple[ClientMethod, ...] = get_args(ClientMethod)
