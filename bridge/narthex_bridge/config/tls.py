"""Settings of TLS, on either side."""

from dataclasses import dataclass
from pathlib import Path

from narthex.settings import SettingsError, option


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """HTTPS for clients."""

    cert: Path | None = option(None, "PEM certificate chain for HTTPS")
    key: Path | None = option(None, "PEM private key of the certificate")
    client_ca: Path | None = option(None, "PEM authorities; clients must then show a certificate of theirs")

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise SettingsError("tls: cert and key belong together; give both or neither")
        if self.client_ca and not self.cert:
            raise SettingsError("tls: client_ca needs cert and key")


@dataclass(frozen=True, slots=True)
class ServerTlsConfig:
    """TLS towards the server."""

    ca: Path | None = option(None, "PEM authorities that the server's certificate is checked against; turns TLS on")
    cert: Path | None = option(None, "PEM certificate chain that the bridge shows to the server")
    key: Path | None = option(None, "PEM private key of that certificate")

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise SettingsError("server_tls: cert and key belong together; give both or neither")
        if self.cert and not self.ca:
            raise SettingsError("server_tls: cert and key need ca, which turns TLS on")
