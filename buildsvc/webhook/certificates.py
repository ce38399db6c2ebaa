"""The serving certificate, its authority, and what is kept of both.

An authority signs one certificate and its key is forgotten at once: there is nothing to steal that
could sign another. So a rotation makes a new authority too, and those who check must trust it
before it is used. What replicas share is a :class:`Keeping`:

``current``  the pair that is served;
``next``     the pair that will be, once everybody trusts its authority;
``trusted``  authorities to trust: of the one, the other, and of earlier pairs that have not ended,
             since a replica may serve one still.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from buildsvc.authority import Authority

#: A third of the lifetime is left when the next pair is made.
_LEFT = 3


@dataclass(frozen=True)
class Pair:
    """A serving certificate and its private key, PEM."""

    certificate: bytes
    key: bytes

    @property
    def ends(self) -> datetime:
        """When the certificate ends."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def fits(self, names: Sequence[str], now: datetime) -> bool:
        """Whether it can be served under these names. False for bytes that are no pair."""
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate)
            key = load_pem_private_key(self.key, None)
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (ValueError, TypeError, x509.ExtensionNotFound):
            return False
        return (
            certificate.public_key() == key.public_key()
            and set(map(_host, names)) <= set(found.value)
            and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
        )

    def ends_soon(self, now: datetime) -> bool:
        """Whether less than a third of its life is left."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return certificate.not_valid_after_utc - now < life / _LEFT


@dataclass(frozen=True)
class Keeping:
    """What is kept in the Secret. ``trusted`` is a bundle in PEM, the newest authority first."""

    current: Pair
    trusted: bytes
    next: Pair | None = None

    @classmethod
    def read(cls, data: Mapping[str, bytes]) -> Self | None:
        """Return what a Secret's data is; None where it is not, or no longer, one of ours."""
        try:
            current, trusted = Pair(data["tls.crt"], data["tls.key"]), data["ca.crt"]
            x509.load_pem_x509_certificates(trusted)
            x509.load_pem_x509_certificate(current.certificate)
        except (KeyError, ValueError):
            return None
        has_next = data.get("next.crt") and data.get("next.key")
        return cls(current, trusted, Pair(data["next.crt"], data["next.key"]) if has_next else None)

    def data(self) -> dict[str, bytes | None]:
        """Return the Secret's data; None for what must not be in it."""
        return {
            "ca.crt": self.trusted,
            "tls.crt": self.current.certificate,
            "tls.key": self.current.key,
            "next.crt": self.next.certificate if self.next else None,
            "next.key": self.next.key if self.next else None,
        }

    def with_next(self, pair: Pair, authority: bytes, now: datetime) -> Keeping:
        """Return this with a pair to be served later, whose authority is to be trusted now."""
        return replace(self, next=pair, trusted=authority + _unended(self.trusted, now))

    def advanced(self) -> Keeping:
        """Return this with the next pair as the current one."""
        assert self.next is not None
        return replace(self, current=self.next, next=None)


def new_keeping(
    names: Sequence[str], lifetime: timedelta, now: datetime, before: bytes = b""
) -> Keeping:
    """Return a pair that can be served at once; authorities of ``before`` stay trusted.

    Takes some milliseconds.
    """
    pair, authority = make_pair(names, lifetime, now)
    return Keeping(pair, authority + _unended(before, now))


def make_pair(names: Sequence[str], lifetime: timedelta, now: datetime) -> tuple[Pair, bytes]:
    """Return a pair for these names and addresses, and the certificate of its authority."""
    # Each has a name of its own: those who check look authorities up by it.
    authority = Authority(f"buildsvc webhook {secrets.token_hex(8)}", lifetime, now)
    hosts = [_host(name) for name in names]
    certificate, key = authority.issue(names[0], ExtendedKeyUsageOID.SERVER_AUTH, hosts)
    return Pair(certificate, key), authority.certificate


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _unended(bundle: bytes, now: datetime) -> bytes:
    try:
        authorities = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return b""
    kept = [one for one in authorities if one.not_valid_after_utc > now]
    return b"".join(one.public_bytes(Encoding.PEM) for one in kept)


def utc_now() -> datetime:
    """Return the time, as certificates have it."""
    return datetime.now(UTC)
