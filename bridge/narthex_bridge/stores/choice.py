"""The stores of a configuration."""

from dataclasses import dataclass

from narthex.settings import SettingsError

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.stores.bus import Bus, NoBus
from narthex_bridge.stores.memory import MemoryEvents, NoRecords
from narthex_bridge.stores.store import Bounds, EventStore, SessionRecords


@dataclass(frozen=True, slots=True)
class Stores:
    """Events and sessions, and the way to other bridges that share them."""

    events: EventStore
    records: SessionRecords
    bus: Bus


def stores(config: BridgeConfig) -> Stores:
    """Raises SettingsError."""
    told = config.events
    bounds = Bounds(told.per_session, told.session_bytes, told.total_bytes, told.age_s)
    match told.store:
        case "sqlite":
            from narthex_bridge.stores.sqlite import SqliteEvents, SqliteFile, SqliteRecords

            file = SqliteFile(told.path)
            return Stores(SqliteEvents(file, bounds), SqliteRecords(file, config.session_idle_s), NoBus())
        case "redis":
            return _redis(config, bounds)
        case "memory":
            return Stores(MemoryEvents(bounds), NoRecords(), NoBus())


def _redis(config: BridgeConfig, bounds: Bounds) -> Stores:
    try:
        from narthex_bridge.stores.redis import RedisEvents, RedisRecords, connect
        from narthex_bridge.stores.redis_bus import RedisBus
    except ImportError:
        raise SettingsError('events: store redis needs the package redis: pip install "narthex[redis]"') from None
    assert config.redis is not None
    client = connect(config.redis.url)
    events = RedisEvents(client, bounds, max(config.session_idle_s, config.call_timeout_s))
    return Stores(events, RedisRecords(client, config.session_idle_s), RedisBus(config.redis.url))
