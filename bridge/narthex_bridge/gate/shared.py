"""Limits that several bridges count together, in Redis."""

import logging
import time
from typing import Any, cast

from narthex.rates import Rate
from narthex.settings import SettingsError
from throttled.asyncio import RedisStore
from throttled.exceptions import StoreUnavailableError

from narthex_bridge.gate.limiters import Allowance, StoreLimiter, in_memory

logger = logging.getLogger(__name__)

PATIENCE_S = 0.5
PAUSE_S = 5.0


class SharedLimiter:
    """Counts in Redis; while that cannot be reached each bridge counts for itself, and nobody has to wait for it."""

    def __init__(self, url: str, kind: str) -> None:
        """Raises SettingsError for a URL that cannot be used."""
        patience = {"SOCKET_TIMEOUT": PATIENCE_S, "SOCKET_CONNECT_TIMEOUT": PATIENCE_S}
        try:
            store = RedisStore(url, options=patience)
            self._client = cast(Any, store._backend.get_client())
        except ImportError:
            raise SettingsError('redis: the Redis client is not installed; pip install "narthex[redis]"') from None
        except ValueError:
            raise SettingsError("redis: is not a URL that the Redis client can use") from None
        self._shared = StoreLimiter(store, kind)
        self._alone = in_memory(kind)
        self._paused_until = 0.0

    async def take(self, who: str, rate: Rate) -> Allowance:
        if time.monotonic() >= self._paused_until:
            try:
                return await self._shared.take(who, rate)
            except StoreUnavailableError as error:
                self._paused_until = time.monotonic() + PAUSE_S
                logger.warning(
                    "limits are counted by this bridge alone: Redis fails with %s", type(error.__cause__).__name__
                )
        return await self._alone.take(who, rate)

    async def close(self) -> None:
        await self._client.connection_pool.disconnect()
