"""A bridge that takes the tokens of an authorization server."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from narthex_bridge.config.oauth import OauthConfig


@pytest.fixture
def resource() -> str:
    return "https://tools.example/mcp"


@pytest.fixture
def protected(authority: Any, start_bridge: Any, resource: str) -> Callable[..., Any]:
    """Starts a bridge with OAuth; further settings of it are given by name."""

    def start(changes: dict[str, Any] | None = None, **oauth: Any) -> AbstractAsyncContextManager[Any]:
        config = OauthConfig(**{"issuers": (authority.url,), "resource": resource, "scopes": ("mcp",), **oauth})
        return start_bridge(oauth=config, **(changes or {}))

    return start


@pytest.fixture
def token(authority: Any, resource: str) -> Callable[..., str]:
    """A token that is good, but for what is given."""
    return lambda **changes: authority.token(**{"aud": resource, "scope": "mcp", **changes})
