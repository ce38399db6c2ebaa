"""Certificates for one sidecar's life: an authority whose key is forgotten at once."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from buildsvc.files import private_directory, write_file
from sidecar.tls import Certificates, ClientFiles

# Longer than any pod lives; the margin before is for clocks that disagree.
_VALID = timedelta(days=90)
_MARGIN = timedelta(hours=1)


class _Authority:
    """Signs one server's and one client's certificate, ECDSA P-256."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("buildsvc sidecar")
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)  # noqa: FBT003
        builder = builder.add_extension(self._identifier, False)  # noqa: FBT003
        usage = _usage(signature=False, sign=True)
        self.certificate = builder.add_extension(usage, True).sign(self._key, hashes.SHA256())  # noqa: FBT003

    def issue(
        self, name: str, purpose: x509.ObjectIdentifier, hosts: list[x509.GeneralName]
    ) -> tuple[bytes, bytes]:
        """Return a new certificate and its private key, both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._name, key.public_key())
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signature=True, sign=False), True),
            (x509.ExtendedKeyUsage([purpose]), False),
            (
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier),
                False,
            ),
        ]
        if hosts:
            extensions.append((x509.SubjectAlternativeName(hosts), False))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(self._key, hashes.SHA256())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM), private


def make_certificates(server_dir: Path, client_dir: Path, host: str = "127.0.0.1") -> Certificates:
    """Make an authority, a server's and a client's certificate and write them (0600).

    The server's is good for localhost, both loopback addresses and ``host``. Blocks for some
    milliseconds. Raises CannotCreate.
    """
    authority = _Authority()
    addresses = {ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", host)}
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(address) for address in addresses if not address.is_unspecified]
    server = authority.issue("buildkitd", ExtendedKeyUsageOID.SERVER_AUTH, names)
    client = authority.issue("buildctl", ExtendedKeyUsageOID.CLIENT_AUTH, [])
    ca = authority.certificate.public_bytes(Encoding.PEM)
    for directory, (certificate, key) in ((server_dir, server), (client_dir, client)):
        _ensure(directory)
        write_file(directory / "ca.pem", ca)
        write_file(directory / "cert.pem", certificate)
        write_file(directory / "key.pem", key)
    return Certificates(
        ca=server_dir / "ca.pem",
        cert=server_dir / "cert.pem",
        key=server_dir / "key.pem",
        client=ClientFiles(client_dir),
    )


def _ensure(directory: Path) -> None:
    # A volume shared with the image-build step belongs to the kubelet: leave its mode alone.
    if not directory.is_dir():
        private_directory(directory)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _MARGIN)
        .not_valid_after(now + _VALID)
    )


def _usage(*, signature: bool, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )
