"""Where the sidecar serves builds, and the certificates for it: what its endpoint file says."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from buildsvc.errors import ConfigError
from buildsvc.imagebuild.placesettings import DEFAULT_ADDRESS, ENDPOINT_FILE, PlaceSettings

#: What ``buildctl --tlsdir`` looks for.
_TLS_FILES = ("ca.pem", "cert.pem", "key.pem")


class NotThereYet(Exception):
    """The sidecar has not said yet how to connect; the text says what is missing."""


@dataclass(frozen=True)
class Endpoint:
    """An address, and the directory of certificates where mutual TLS is spoken."""

    url: str
    tls_dir: Path | None = None

    @property
    def flags(self) -> list[str]:
        """Flags of buildctl, to put before its command."""
        tls = [f"--tlsdir={self.tls_dir}"] if self.tls_dir else []
        return [f"--addr={self.url}", *tls]


class EndpointFinder:
    """Finds out how to connect, as options and the endpoint file have it. ``default`` for tests."""

    def __init__(self, settings: PlaceSettings, default: Path = ENDPOINT_FILE) -> None:
        self._settings = settings
        self._default = default

    def find(self) -> Endpoint:
        """Return how to connect.

        Raises:
            NotThereYet: a file is missing that the sidecar is still to write.
            ConfigError: the endpoint file is something else.
        """
        said = self._read()
        url = self._settings.address or said.url or DEFAULT_ADDRESS
        directory = self._settings.tls_dir or said.tls_dir
        missing = [name for name in _TLS_FILES if directory and not (directory / name).is_file()]
        if missing:
            raise NotThereYet(f"{directory} has no {missing[0]}")
        return Endpoint(url, directory)

    def _read(self) -> Endpoint:
        path = self._settings.endpoint_file or self._default
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if self._settings.endpoint_file is None:
                return Endpoint("")
            raise NotThereYet(f"there is no endpoint file {path}") from None
        except OSError as error:
            raise ConfigError(f"the endpoint file cannot be read: {error}") from error
        url = directory = None
        with suppress(ValueError, KeyError, TypeError):
            said = json.loads(data)
            url, directory = said["url"], said["tlsdir"]
        if not isinstance(url, str) or not isinstance(directory, str | None):
            raise ConfigError(
                f"{path} is no endpoint file",
                expected="JSON with url and tlsdir, as `sidecar run --endpoint-file` writes it",
                found=repr(data[:80].decode(errors="replace")),
                advice="set --endpoint-file, or --address",
            )
        return Endpoint(url, Path(directory) if directory else None)
