"""How we show an upstream who asks."""

from dataclasses import dataclass, field
from typing import Literal

from narthex_server.tools.upstream.secrets import Text

ClientMethod = Literal["basic", "post"]
"""Where the client's secret goes: into the header, or into the form (RFC 6749, section 2.3.1)."""


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A token of our own for all callers, by OAuth 2.1's client credentials.

    Without a `token_url` the endpoint is found by the metadata of `issuer`, or of the upstream (RFC 9728, RFC 8414);
    without a `resource` the token is asked for the upstream's URL (RFC 8707).
    """

    client_id: str
    client_secret: Text = field(repr=False)
    token_url: str | None = None
    issuer: str | None = None
    scope: str | None = None
    resource: str | None = None
    method: ClientMethod = "basic"


@dataclass(frozen=True, slots=True)
class Passthrough:
    """Each caller's own token for the upstream, which comes with the call; lists are asked for without one."""


Auth = ClientCredentials | Passthrough
