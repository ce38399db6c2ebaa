"""Certificates for one sidecar's life: an authority whose key is forgotten at once."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from buildsvc.authority import Authority
from buildsvc.files import private_directory, write_file
from sidecar.tls import Certificates, ClientFiles

# Longer than any pod lives.
_VALID = timedelta(days=90)


def make_certificates(server_dir: Path, client_dir: Path, host: str = "127.0.0.1") -> Certificates:
    """Make an authority, a server's and a client's certificate and write them (0600).

    The server's is good for localhost, both loopback addresses and ``host``. Blocks for some
    milliseconds. Raises CannotCreate.
    """
    authority = Authority("buildsvc sidecar", _VALID)
    addresses = {ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", host)}
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(address) for address in addresses if not address.is_unspecified]
    server = authority.issue("buildkitd", ExtendedKeyUsageOID.SERVER_AUTH, names)
    client = authority.issue("buildctl", ExtendedKeyUsageOID.CLIENT_AUTH, [])
    ca = authority.certificate
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
