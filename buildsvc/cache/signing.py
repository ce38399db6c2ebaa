"""Signed heads: whoever holds a key of a trust domain may publish in it, and a reader can tell.

A signed head is an ordinary serialised Head whose signature is the last field::

    the Head without its signature, signing_key_id among it │ 7a 40 │ 64 bytes
    └──────────────────── body ───────────────────────────┘  field 15, its length

Signed (Ed25519, RFC 8032) is a context, which no other message of ours begins with, followed by
the body's very bytes. So nothing is serialised anew to check a signature, and fields that a
reader does not know are covered too.

A key is named by the first 32 hex digits of the SHA-256 of its 32 public bytes. Key files are PEM
(RFC 8410), one key each, what ``openssl genpkey -algorithm ed25519`` and ``openssl pkey -pubout``
write. The cryptographic library is imported when the first key is read, and not before.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.keys import CacheKey
from buildsvc.errors import ConfigError, UntrustedHead

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

    from buildsvc.keyplaces import KeyPlace

CONTEXT = b"buildsvc.cache.v1.Head\0"
"""What every signed text begins with."""

_FIELD = bytes([15 << 3 | 2, 64])
_MAX_FILE = 64 << 10
_BEGIN = b"-----BEGIN "
_PRIVATE = b"PRIVATE KEY-----"


class VerifyKey:
    """A public key: tells whether the holder of the private one has signed."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public = public
        self.id = hashlib.sha256(public.public_bytes_raw()).hexdigest()[:32]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key of a PEM file. Raises ConfigError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        pem = _pem(path)
        if _PRIVATE in pem:
            raise ConfigError(
                f"{path} is a private key",
                expected="the public key, which is all that a reader may have",
                advice="openssl pkey -pubout",
            )
        try:
            public = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path} is no public key in PEM: {error}") from error
        if not isinstance(public, Ed25519PublicKey):
            raise ConfigError(
                f"{path} is a key of another kind", expected="Ed25519", found=type(public).__name__
            )
        return cls(public)

    def verifies(self, body: bytes, signature: bytes) -> bool:
        """Whether it is the signature of a head with this body."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._public.verify(signature, CONTEXT + body)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private key: signs the heads of a trust domain."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.verify_key = VerifyKey(private.public_key())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key of a PEM file. Raises ConfigError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(_pem(path), password=None)
        # TypeError: it is encrypted.
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"{path} is no private key in PEM: {error}",
                expected="an Ed25519 key without a password",
                advice="openssl genpkey -algorithm ed25519",
            ) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError(
                f"{path} is a key of another kind", expected="Ed25519", found=type(private).__name__
            )
        return cls(private)

    @property
    def id(self) -> str:
        """The name that it has in common with its public key."""
        return self.verify_key.id

    def sign(self, head: cache_pb2.Head) -> bytes:
        """The head as it is stored, with the key's name and signature."""
        unsigned = cache_pb2.Head()
        unsigned.CopyFrom(head)
        unsigned.ClearField("signature")
        unsigned.signing_key_id = self.id
        body = unsigned.SerializeToString(deterministic=True)
        return body + _FIELD + self._private.sign(CONTEXT + body)


class VerifyKeys:
    """Which keys may sign for which tenant and trust domain."""

    def __init__(self, keys: Mapping[tuple[str, str], Iterable[VerifyKey]]) -> None:
        self._keys = {scope: {key.id: key for key in these} for scope, these in keys.items()}

    @classmethod
    def read(cls, places: Iterable[KeyPlace]) -> Self:
        """The keys in files, and in directories' ``*.pem`` files.

        Raises ConfigError: there is none, or a file is none of a key.
        """
        keys: dict[tuple[str, str], list[VerifyKey]] = defaultdict(list)
        for place in places:
            keys[place.tenant, place.trust_domain] += _verify_keys(place.path)
        return cls(keys)

    @property
    def domains(self) -> list[str]:
        """``TENANT/DOMAIN`` of each domain that has keys."""
        return ["/".join(scope) for scope in self._keys]

    def ids(self, tenant: str, trust_domain: str) -> list[str]:
        """The names of the keys that may sign there."""
        return sorted(self._keys.get((tenant, trust_domain), {}))

    def check(self, head: cache_pb2.Head, raw: bytes, key: CacheKey, number: int) -> None:
        """Raises UntrustedHead unless the head, which was parsed from ``raw``, has the signature
        of a key that may sign for the cache key's tenant and trust domain.

        What the head says of its own place is for the caller to compare with ``key`` and
        ``number``.
        """
        where = f"{key.tenant}/{key.trust_domain}"
        trusted = self._keys.get((key.tenant, key.trust_domain), {})
        expected = f"a signature of {' or '.join(sorted(trusted)) or 'no key at all'}"
        if not head.signature:
            raise UntrustedHead(f"head {number}: it is not signed", expected=expected)
        signer = trusted.get(head.signing_key_id)
        if signer is None:
            raise UntrustedHead(
                f"head {number}: signed by a key that may not sign for {where}",
                expected=expected,
                found=repr(head.signing_key_id[:40]),
            )
        # Anywhere else than at the end it stays in the body, which was not signed so.
        body = raw.removesuffix(_FIELD + head.signature)
        if not signer.verifies(body, head.signature):
            raise UntrustedHead(f"head {number}: these bytes were not signed by key {signer.id}")


def _verify_keys(path: Path) -> list[VerifyKey]:
    if not path.is_dir():
        return [VerifyKey.read(path)]
    files = sorted(path.glob("*.pem"))
    if not files:
        raise ConfigError(f"{path} has no verify keys", expected="files called *.pem")
    return [VerifyKey.read(file) for file in files]


def is_private(path: Path) -> bool:
    """Whether a key file has a private key. Raises ConfigError when it has none at all."""
    return _PRIVATE in _pem(path)


def _pem(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            pem = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be read: {error.strerror}") from error
    if pem.count(_BEGIN) != 1 or len(pem) > _MAX_FILE:
        raise ConfigError(
            f"{path} is no key file",
            expected="one key in PEM",
            found=f"{pem.count(_BEGIN)} blocks in {min(len(pem), _MAX_FILE)} bytes or more",
        )
    return pem
