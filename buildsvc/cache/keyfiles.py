"""Files with the keys that heads are signed with: new ones, and what is in one."""

from __future__ import annotations

import os
from pathlib import Path

from buildsvc.cache.signing import SigningKey, VerifyKey, is_private
from buildsvc.errors import CannotCreate


def new_key(signing: Path, verify: Path) -> str:
    """Writes a new pair, the private key for its owner alone; the pair's id. Blocks.

    Raises CannotCreate, also for a file that is there already.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    _create(
        signing, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600
    )
    try:
        info = PublicFormat.SubjectPublicKeyInfo
        _create(verify, public.public_bytes(Encoding.PEM, info), 0o644)
    except CannotCreate:
        signing.unlink()
        raise
    return VerifyKey(public).id


def read_key(path: Path) -> tuple[str, str]:
    """What is in a key file, ``signing`` or ``verify``, and its id. Raises ConfigError."""
    if is_private(path):
        return "signing", SigningKey.read(path).id
    return "verify", VerifyKey.read(path).id


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with open(fd, "wb") as file:
                file.write(data)
        except OSError:
            # Half a key would only be in the way of the next try.
            path.unlink()
            raise
    except OSError as error:
        raise CannotCreate(
            f"the key file {path} cannot be made: {error.strerror}",
            advice="name a file that is not there yet, in a directory that you may write",
        ) from error
