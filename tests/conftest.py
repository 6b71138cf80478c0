"""What tests of every kind share: an OAuth authorization server of one's own."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

# As narthex-server does, before gRPC is imported: tests that serve in their own process fork upstreams off, too.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

PRIVATE = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


class AuthorizationServer(ThreadingHTTPServer):
    """Metadata, keys and a token endpoint over real HTTP; what it signs, and how it fails, is up to the test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.keys: dict[str, tuple[str, Any]] = {}
        self.metadata_path = "/.well-known/oauth-authorization-server"
        self.claimed_issuer = self.url
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.down = False
        self.released = threading.Event()
        self.released.set()
        self.add_key("one", "ES256")

    def add_key(self, kid: str, algorithm: str = "ES256") -> None:
        self.keys[kid] = (algorithm, PRIVATE[algorithm]())

    def token(self, *, kid: str = "one", header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A signed token; a claim of None is left out."""
        algorithm, key = self.keys[kid]
        now = int(time.time())
        said = {"iss": self.url, "sub": "ann", "iat": now, "exp": now + 600, **claims}
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, key, algorithm, headers={"kid": kid, "typ": "at+jwt", **(header or {})})

    def jwks(self) -> dict[str, Any]:
        return {"keys": [self.jwk(kid) for kid in self.keys]}

    def jwk(self, kid: str) -> dict[str, Any]:
        algorithm, key = self.keys[kid]
        public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
        return {**public, "kid": kid, "use": "sig"}

    def answer(self, path: str, body: str) -> dict[str, Any] | None:
        if path == self.metadata_path:
            return {
                "issuer": self.claimed_issuer,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "registration_endpoint": f"{self.url}/register",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
            }
        if path == "/keys":
            return self.jwks()
        if path == "/register":
            return {**json.loads(body), "client_id": "a-client", "token_endpoint_auth_method": "none"}
        if path == "/token":
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self.forms.append(form)
            token = self.token(aud=form["resource"], scope=form.get("scope", "mcp"))
            return {"access_token": token, "token_type": "Bearer", "expires_in": 600, "scope": form.get("scope", "mcp")}
        return None


class _Handler(BaseHTTPRequestHandler):
    server: AuthorizationServer

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        self.server.asked.append(path)
        self.server.released.wait(10)
        document = None if self.server.down else self.server.answer(path, body)
        content = json.dumps(document).encode()
        self.send_response(503 if self.server.down else 200 if document is not None else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def authority() -> Iterator[AuthorizationServer]:
    server = AuthorizationServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.fixture
def forge() -> Any:
    return unsigned
