"""A real MCP server over HTTP that asks for tokens, and the authorization server that gives them."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote

import uvicorn
from mcp.server.mcpserver import Context, MCPServer


class Guarded:
    """Tokens of `accepted` pass; each answer of /token gives the next of `given`, and remembers who asked for what."""

    def __init__(self) -> None:
        self.url = ""
        self.accepted: set[str] = set()
        self.given: list[str] = []
        self.lives: int | None = 3600
        self.refusal: tuple[int, bytes] | None = None
        self.asked: list[dict[str, Any]] = []
        self.seen: list[str] = []
        self.page: bytes | None = None
        self.well_known = True
        server = MCPServer("guarded")
        server.add_tool(self.whoami)
        self._mcp = server.streamable_http_app()

    async def whoami(self, ctx: Context) -> str:
        return (ctx.headers or {}).get("authorization", "nobody")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._mcp(scope, receive, send)
            return
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        match scope["path"]:
            case "/token":
                await self._token(headers, receive, send)
            case "/.well-known/oauth-protected-resource/mcp" if self.well_known:
                await _json(send, {"resource": f"{self.url}/mcp", "authorization_servers": [f"{self.url}/tenant"]})
            case "/.well-known/oauth-authorization-server/tenant":
                await _json(send, {"issuer": f"{self.url}/tenant", "token_endpoint": f"{self.url}/token"})
            case "/mcp":
                await self._resource(headers, scope, receive, send)
            case _:
                await _answer(send, 404, b"")

    async def _resource(self, headers: dict[str, str], scope: Any, receive: Any, send: Any) -> None:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        self.seen.append(token)
        if token not in self.accepted:
            page = self.page if self.page is not None else json.dumps(headers).encode()
            challenge = b'Bearer error="invalid_token"' if token else b"Bearer"
            await _answer(send, 401, page, (b"www-authenticate", challenge), (b"content-type", b"text/html"))
            return
        await self._mcp(scope, receive, send)

    async def _token(self, headers: dict[str, str], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        asked: dict[str, Any] = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        if basic := headers.get("authorization", "").removeprefix("Basic "):
            name, _, secret = base64.b64decode(basic).decode().partition(":")
            asked["basic"] = (unquote(name), unquote(secret))
        self.asked.append(asked)
        if self.refusal is not None:
            await _answer(send, self.refusal[0], self.refusal[1] + body + json.dumps(headers).encode())
            return
        token = self.given[min(len(self.asked), len(self.given)) - 1]
        lives = {} if self.lives is None else {"expires_in": self.lives}
        await _json(send, {"access_token": token, "token_type": "Bearer", **lives})


async def _json(send: Any, value: object) -> None:
    await _answer(send, 200, json.dumps(value).encode(), (b"content-type", b"application/json"))


async def _answer(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served(app: Any, **tls: Any) -> AsyncIterator[int]:
    """The port of an ASGI application that is served inside the block."""
    config = uvicorn.Config(app, "127.0.0.1", 0, log_level="critical", lifespan="on", ws="none", **tls)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    config.load()
    started, startup = asyncio.Event(), server.startup

    async def told(*args: Any, **kwargs: Any) -> None:
        await startup(*args, **kwargs)
        started.set()

    server.startup = told  # type: ignore[method-assign]
    serving = asyncio.create_task(server._serve())
    async with asyncio.timeout(10):
        await started.wait()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await serving
