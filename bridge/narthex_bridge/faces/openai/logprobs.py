"""How probable tokens were, as chats and responses show it."""

from collections.abc import Iterable
from typing import Any

from narthex.v1 import common_pb2 as common

LEAST = -9999.0
"""Stands for minus infinity, which JSON lacks."""


def token_logprobs(positions: Iterable[common.PositionLogprobs]) -> list[dict[str, Any]]:
    return [
        {**_token(position.chosen), "top_logprobs": [_token(candidate) for candidate in position.candidates]}
        for position in positions
    ]


def text_of(token: bytes) -> str:
    """A token's text; a part of a character appears as U+FFFD."""
    return token.decode("utf-8", "replace")


def _token(token: common.TokenLogprob) -> dict[str, Any]:
    return {"token": text_of(token.token), "logprob": max(token.logprob, LEAST), "bytes": list(token.token)}
