"""Authorities whose key is forgotten: they sign what is needed at once; ECDSA P-256."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

#: Before "now", for clocks that disagree.
_MARGIN = timedelta(hours=1)


class Authority:
    """Signs certificates that are valid for ``lifetime``, as its own is, in some milliseconds."""

    def __init__(self, name: str, lifetime: timedelta, now: datetime | None = None) -> None:
        self._lifetime = lifetime
        self._now = now or datetime.now(UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        #: Its own certificate, PEM.
        self.certificate = self._signed(
            self._name,
            self._key.public_key(),
            [
                (x509.BasicConstraints(ca=True, path_length=0), True),
                (self._identifier, False),
                (_usage(signature=False, sign=True), True),
            ],
        )

    def issue(
        self, name: str, purpose: x509.ObjectIdentifier, hosts: Sequence[x509.GeneralName]
    ) -> tuple[bytes, bytes]:
        """Return a new certificate and its private key, both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signature=True, sign=False), True),
            (x509.ExtendedKeyUsage([purpose]), False),
            (authority, False),
        ]
        if hosts:
            extensions.append((x509.SubjectAlternativeName(hosts), False))
        certificate = self._signed(_name(name), key.public_key(), extensions)
        return certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _MARGIN)
            .not_valid_after(self._now + self._lifetime)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _name(text: str) -> x509.Name:
    # 64 characters are the most that a name may have.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


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
