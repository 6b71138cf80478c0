"""Whom we trust at the other end of a connection, and what we show."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files; without `ca` the system's authorities are trusted.

    `server_name` is the name that the certificate has to be for, where it is not the URL's host.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    server_name: str | None = None

    def context(self) -> ssl.SSLContext:
        """Read from the files at each call, as certificates are renewed; raises OSError (ssl.SSLError is one)."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


USUAL = Tls()
