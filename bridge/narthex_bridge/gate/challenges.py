"""What a client is told that must show another credential."""

from urllib.parse import urlsplit

from narthex_bridge.config.oauth import OauthConfig
from narthex_bridge.http.refusal import Reason, Refusal, Refused

WELL_KNOWN = "/.well-known/oauth-protected-resource"


def metadata_url(resource: str) -> str:
    """Where the metadata of a resource are (RFC 9728, 3.1): its path goes behind the well-known one."""
    parts = urlsplit(resource)
    return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path.rstrip('/')}"


class Challenges:
    """WWW-Authenticate of a bridge with keys, OAuth or both."""

    def __init__(self, oauth: OauthConfig, *, keys: bool) -> None:
        self._scopes = oauth.scopes
        self._metadata = metadata_url(oauth.resource) if oauth.issuers else ""
        taken = (("access token", bool(oauth.issuers)), ("API key", keys))
        self._needed = " or ".join(name for name, there in taken if there)

    def missing(self) -> Refused:
        """No credential was sent."""
        text = f"A valid {self._needed} is needed: Authorization: Bearer <{self._needed}>."
        return self._refused(401, "credential", text, "")

    def invalid(self, problem: str) -> Refused:
        """A credential that is worth nothing; `problem` is a sentence that holds nothing of it."""
        text = f"{problem} A valid {self._needed} is needed: Authorization: Bearer <{self._needed}>."
        return self._refused(401, "credential", text, "invalid_token", problem)

    def insufficient(self) -> Refused:
        """A valid token that is not for this."""
        needed = " ".join(self._scopes)
        text = f"The token is valid, but lacks a scope. Needed: {needed}; ask the authorization server for them."
        return self._refused(403, "scope", text, "insufficient_scope")

    def unverifiable(self) -> Refused:
        """Whether the token is valid cannot be known now; that is not the client's fault."""
        text = "The token cannot be checked now: its authorization server's keys cannot be had. Try again."
        return Refused("issuer", Refusal(503, text, (("retry-after", "5"),), reason="ISSUER_UNREACHABLE"))

    def _refused(self, status: int, reason: Reason, text: str, error: str, description: str = "") -> Refused:
        parts = {"error": error, "error_description": description, "resource_metadata": self._metadata}
        if self._metadata:
            parts["scope"] = " ".join(self._scopes)
        said = "".join(f', {name}="{value}"' for name, value in parts.items() if value)
        challenge = ("www-authenticate", f'Bearer realm="narthex"{said}')
        return Refused(reason, Refusal(status, text, (challenge,), reason=reason.upper()))
