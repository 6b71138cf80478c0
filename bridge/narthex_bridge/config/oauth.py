"""Settings of OAuth."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from narthex.settings import SettingsError, option

from narthex_bridge.config.loopback import is_loopback

_QUOTABLE = re.compile(r"[!#-\[\]-~]+")  # what may stand in a quoted string of a header


@dataclass(frozen=True, slots=True)
class OauthConfig:
    """Tokens of OAuth 2.1 authorization servers; given an issuer, the bridge is a resource server."""

    issuers: tuple[str, ...] = option((), "authorization servers whose access tokens are taken; turns OAuth on")
    resource: str = option("", "the public URL of /mcp, which clients name to the authorization server")
    audiences: tuple[str, ...] = option((), "what tokens must be meant for (aud); by default the resource")
    jwks_url: str = option("", "where the only issuer's keys are; by default its metadata says")
    scopes: tuple[str, ...] = option((), "scopes that every token needs")
    tenant_claim: str = option("", "the claim that names a token's tenant; without it all are of tenant default")
    tool_scope_prefix: str = option("", "scopes that start so, such as tools:, name the tools that a token is for")
    jwks_lifetime_s: float = option(600.0, "seconds after which an issuer's keys are fetched again", minimum=1)
    jwks_pause_s: float = option(30.0, "least seconds between fetches for keys that are not known", minimum=0)
    timeout_s: float = option(5.0, "longest request to an authorization server, seconds", minimum=0.1)
    leeway_s: float = option(30.0, "seconds by which clocks may differ", minimum=0)

    def __post_init__(self) -> None:
        if not self.issuers:
            return
        if not self.resource:
            raise SettingsError("oauth: resource is missing: the public URL of /mcp, such as https://tools.example/mcp")
        if self.jwks_url and len(self.issuers) > 1:
            raise SettingsError("oauth: jwks_url holds for one issuer; with several their metadata says where keys are")
        for name, url in (
            ("resource", self.resource),
            ("jwks_url", self.jwks_url),
            *(("issuers", i) for i in self.issuers),
        ):
            if url and (problem := url_problem(url)):
                raise SettingsError(f"oauth: {name}: {url!r} {problem}")
        for scope in self.scopes:
            if not _QUOTABLE.fullmatch(scope):
                raise SettingsError(f"oauth: scopes: {scope!r} is not one word of ASCII; repeat the flag for several")


def url_problem(url: str) -> str:
    """Why a URL cannot be one of OAuth, or an empty text: https, or http on this machine, and no fragment or query."""
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or not _QUOTABLE.fullmatch(url) or parts.query or parts.fragment or parts.username is not None:
        return "is not a plain URL"
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return "must begin with https://"
    return ""
