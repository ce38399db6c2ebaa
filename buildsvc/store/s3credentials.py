"""Where the credentials of an S3 store come from.

In this order: keys in the environment, a web identity token, the shared credentials file, a
container's credential service. A machine's own role is never used: where RUN steps share the
pod's network, they could take it as well.
"""

from __future__ import annotations

import configparser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc.errors import StoreRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore.store import S3Credential

# What the client reads by itself, and renews; each row is enough.
_STRONGER = (
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
)
_WEAKER = (
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
)
# The client asks again when less than 5 minutes are left.
_KEPT = timedelta(minutes=15)


class SharedFile:
    """One profile of a credentials file, read again every ten minutes: who rotates keys writes it.

    Called by the client in threads of its own.
    """

    def __init__(self, path: Path, profile: str) -> None:
        self._path = path
        self._profile = profile

    def __call__(self) -> S3Credential:
        """Read the file.

        Raises:
            StoreRefused: there is no such profile, or the file cannot be read.
        """
        # No interpolation: a secret may have a percent sign.
        parser = configparser.RawConfigParser()
        try:
            with self._path.open(encoding="utf-8") as file:
                parser.read_file(file)
            profile = parser[self._profile]
            return {
                "access_key_id": profile["aws_access_key_id"],
                "secret_access_key": profile["aws_secret_access_key"],
                "token": profile.get("aws_session_token"),
                "expires_at": datetime.now(UTC) + _KEPT,
            }
        except (OSError, ValueError, KeyError, configparser.Error) as error:
            # Not the parser's own words: they repeat lines of the file.
            raise StoreRefused(
                f"no credentials in {self._path}",
                expected=f"[{self._profile}] with aws_access_key_id and aws_secret_access_key",
                found=type(error).__name__,
                advice="set AWS_PROFILE or AWS_SHARED_CREDENTIALS_FILE, or another source",
            ) from None


def find_credentials(environ: Mapping[str, str]) -> SharedFile | None:
    """The file to read, or None where the client finds credentials in the environment itself.

    Blocks as a look at a file does.

    Raises:
        StoreRefused: there is no source.
    """
    if _complete(_STRONGER, environ):
        return None
    home = environ.get("HOME") or "/"
    path = Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/.aws/credentials")
    if path.is_file():
        return SharedFile(path, environ.get("AWS_PROFILE") or "default")
    if _complete(_WEAKER, environ):
        return None
    rows = [" and ".join(names) for names in (*_STRONGER, *_WEAKER)]
    raise StoreRefused(
        "no credentials for the S3 store",
        expected=f"in the environment {', or '.join(rows)}; or the file {path}",
        found="none of them",
        advice="see docs/operations.md; a machine's own role is not used",
    )


def _complete(rows: tuple[tuple[str, ...], ...], environ: Mapping[str, str]) -> bool:
    return any(all(environ.get(name) for name in names) for names in rows)
