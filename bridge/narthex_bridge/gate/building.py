"""A gate as the settings want it."""

from collections.abc import Callable

from narthex.keys import KeyRing

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.gate.addresses import Addresses
from narthex_bridge.gate.challenges import Challenges
from narthex_bridge.gate.credentials import Credentials
from narthex_bridge.gate.gate import Gate
from narthex_bridge.gate.hosts import Hosts
from narthex_bridge.gate.keys import Keys
from narthex_bridge.gate.limiters import Limiter, in_memory
from narthex_bridge.gate.limits import Limits
from narthex_bridge.gate.origins import Origins
from narthex_bridge.gate.tokens import Tokens
from narthex_bridge.http.refusal import Reason


def gate(config: BridgeConfig, refused: Callable[[Reason], None]) -> Gate:
    """Raises SettingsError for a key file or a Redis URL that cannot be used."""
    ring = KeyRing.from_file(config.api_key_file) if config.api_key_file else None
    return Gate(
        Hosts(config.http.host, config.allowed_hosts),
        Origins(config.allowed_origins),
        Addresses(config.trusted_proxies),
        Limits(config.limits, *(_limiter(config, kind) for kind in ("address", "principal", "total"))),
        Credentials(
            Keys(ring) if ring is not None else None,
            Tokens(config.oauth) if config.oauth.issuers else None,
            Challenges(config.oauth, keys=ring is not None),
        ),
        refused,
    )


def _limiter(config: BridgeConfig, kind: str) -> Limiter:
    if config.redis is None:
        return in_memory(kind)
    from narthex_bridge.gate.shared import SharedLimiter  # needs the Redis client, which is an extra

    return SharedLimiter(config.redis.url, kind)
