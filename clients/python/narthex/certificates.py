"""TLS files, checked before they are used: of a broken one gRPC says only that it cannot listen or connect."""

import ssl
from pathlib import Path

from narthex.settings import SettingsError


def check(where: str, cert: Path | None, key: Path | None, authorities: Path | None) -> None:
    """Raises SettingsError, which begins with `where`, for PEM files that cannot be read or used together."""
    for file in filter(None, (cert, key, authorities)):
        try:
            file.read_bytes()
        except OSError as error:
            raise SettingsError(f"{where}: {file}: cannot be read: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if cert and key:
        try:
            context.load_cert_chain(cert, key, password="")  # without one an encrypted key would ask the terminal
        except ssl.SSLError as error:
            raise SettingsError(
                f"{where}: {cert} and {key} are not a certificate chain and its unencrypted key, in PEM: {error}"
            ) from error
    if authorities:
        try:
            context.load_verify_locations(authorities)
        except ssl.SSLError as error:
            raise SettingsError(f"{where}: {authorities} holds no certificates in PEM: {error}") from error
