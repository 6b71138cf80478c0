"""A bridge that takes the tokens of an authorization server."""

import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from narthex.settings import Address
from narthex_bridge.config import OauthConfig


@pytest.fixture
def port() -> int:
    """A port that is free: the resource's URL has to be known before the bridge listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def resource(port: int) -> str:
    return f"http://127.0.0.1:{port}/mcp"


@pytest.fixture
def protected(authority: Any, start_bridge: Any, port: int, resource: str) -> Callable[..., Any]:
    """Starts a bridge with OAuth; further settings of it are given by name."""

    def start(changes: dict[str, Any] | None = None, **oauth: Any) -> AbstractAsyncContextManager[Any]:
        config = OauthConfig(**{"issuers": (authority.url,), "resource": resource, "scopes": ("mcp",), **oauth})
        return start_bridge(http=Address("127.0.0.1", port), oauth=config, **(changes or {}))

    return start


@pytest.fixture
def token(authority: Any, resource: str) -> Callable[..., str]:
    """A token that is good, but for what is given."""
    return lambda **changes: authority.token(**{"aud": resource, "scope": "mcp", **changes})
