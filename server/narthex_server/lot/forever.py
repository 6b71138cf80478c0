"""Rounds that are made as long as the server lives."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from narthex_server.errors import Unavailable

log = logging.getLogger(__name__)


async def forever(what: str, turn: Callable[[], Awaitable[object]], pause: float) -> None:
    """Takes one turn after the other, with a pause in seconds after each; what fails in one is only logged."""
    while True:
        try:
            await turn()
        except Unavailable as error:
            log.warning("%s: %s", what, error.message)
        except Exception:
            log.exception("%s failed", what)
        await asyncio.sleep(pause)
