"""How the server is reached securely."""

from dataclasses import dataclass
from pathlib import Path

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class Tls:
    """Transport security: PEM files. With `client_ca`, callers must present a certificate that it signed (mTLS)."""

    cert: Path | None = option(None, "the server's certificate chain, PEM; turns TLS on")
    key: Path | None = option(None, "the certificate's private key, PEM")
    client_ca: Path | None = option(None, "demand client certificates signed by these authorities, PEM")
