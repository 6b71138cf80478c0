"""Connections to upstreams that tenants or sessions have for themselves."""

from dataclasses import dataclass

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class Connections:
    """Who shares one, how many there are and for how long; times in seconds."""

    single_tenant: bool = option(
        False, "all callers are of one tenant, and share a connection to each upstream whose scope is not given"
    )

    per_upstream: int = option(64, "connections to one upstream that tenants or sessions may have", minimum=1)
    per_tenant: int = option(16, "of them those of one tenant's sessions", minimum=1)
    tenant_idle: float = option(600.0, "seconds without calls after which a tenant's connection is closed", minimum=1)
    session_idle: float = option(
        1800.0, "seconds without calls after which a session's connection is closed", minimum=1
    )
