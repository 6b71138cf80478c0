"""Certificates of a test's own."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """A certificate authority in a folder: `ca.pem`, and `<name>.pem` with `<name>.key` for whom it signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        certificate = self._certificate(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self._write("ca.pem", certificate)

    def issue(self, name: str, *alternatives: x509.GeneralName) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(_name(name), key)
        if alternatives:
            certificate = certificate.add_extension(x509.SubjectAlternativeName(alternatives), False)
        self._write(f"{name}.pem", certificate)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (self.folder / f"{name}.key").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))

    def read(self, file: str) -> bytes:
        return (self.folder / file).read_bytes()

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(days=1),
        )

    def _write(self, file: str, certificate: x509.CertificateBuilder) -> None:
        signed = certificate.sign(self._key, hashes.SHA256())
        (self.folder / file).write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
