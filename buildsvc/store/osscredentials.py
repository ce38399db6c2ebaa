"""Credentials for Alibaba Cloud, and where they come from; blocking, for threads.

Nothing here puts a secret into a text: not ``repr``, not an error.
"""

from __future__ import annotations

import configparser
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from buildsvc.errors import StoreRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildsvc.store.httpconnection import Call

FILE_EVERY = 60.0
"""Seconds after which a credentials file is read again: a mounted secret is exchanged in place."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What requests are signed with. Times in seconds since the epoch."""

    key_id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    """Of the Security Token Service; empty for a key that does not end."""
    renew: float = math.inf
    """From then on it is worth asking for others."""
    ends: float = math.inf


class CredentialSource(Protocol):
    """Gives credentials."""

    @property
    def renews(self) -> bool:
        """Whether asking again may give others."""
        ...

    def fetch(self, call: Call, now: float) -> Credentials:
        """Return credentials that hold at ``now``; ``call`` ends what it waits for.

        Raises:
            StoreUnavailable: not at the moment.
            StoreRefused: not until somebody changes something.
        """
        ...


class EnvironmentCredentials:
    """The key in ``environ``: under OSS's own names, or else those of all of Alibaba Cloud."""

    NAMES = (
        ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"),
        (
            "ALIBABA_CLOUD_ACCESS_KEY_ID",
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
            "ALIBABA_CLOUD_SECURITY_TOKEN",
        ),
    )

    def __init__(self, environ: Mapping[str, str]) -> None:
        found = None
        for key_id, secret, token in self.NAMES:
            if environ.get(key_id) and environ.get(secret):
                found = Credentials(environ[key_id], environ[secret], environ.get(token, ""))
                break
        if found is None:
            raise StoreRefused(
                "there are no credentials in the environment",
                expected=" or ".join(" and ".join(names[:2]) for names in self.NAMES),
            )
        self._credentials = found

    @property
    def renews(self) -> bool:
        """See ``CredentialSource.renews``: a process's environment does not change."""
        return False

    def fetch(self, call: Call, now: float) -> Credentials:
        """See ``CredentialSource.fetch``."""
        del call, now
        return self._credentials


class FileCredentials:
    """The key in a file of the form that Alibaba Cloud's SDKs read (INI).

    Of ``profile`` with ``type = access_key`` or ``sts``. Read again every ``FILE_EVERY`` seconds.
    """

    def __init__(self, path: Path, profile: str = "default") -> None:
        self._path = path
        self._profile = profile

    @property
    def renews(self) -> bool:
        """See ``CredentialSource.renews``."""
        return True

    def fetch(self, call: Call, now: float) -> Credentials:
        """See ``CredentialSource.fetch``."""
        del call
        found = self._read()
        kind = found.get("type", "access_key")
        key_id = found.get("access_key_id", "")
        secret = found.get("access_key_secret", "")
        token = found.get("security_token", "")
        if kind not in {"access_key", "sts"} or not key_id or not secret:
            raise self._unusable(f"no usable profile {self._profile}")
        if kind == "sts" and not token:
            raise self._unusable("no security_token")
        return Credentials(key_id, secret, token if kind == "sts" else "", renew=now + FILE_EVERY)

    def _read(self) -> Mapping[str, str]:
        parser = configparser.ConfigParser(interpolation=None)
        problem = ""
        try:
            parser.read_string(self._path.read_text())
        except OSError as error:
            problem = error.strerror or "it cannot be read"
        except (configparser.Error, UnicodeDecodeError):
            problem = "something else"
        if problem:
            # Outside the handler: the parser's errors quote the line, which may hold the secret.
            raise self._unusable(problem)
        if not parser.has_section(self._profile):
            raise self._unusable(f"no profile {self._profile}")
        return parser[self._profile]

    def _unusable(self, found: str) -> StoreRefused:
        return StoreRefused(
            f"{self._path} is not a file with credentials",
            expected="[default] with type = access_key or sts, access_key_id, access_key_secret "
            "and, for sts, security_token",
            found=found,
        )
