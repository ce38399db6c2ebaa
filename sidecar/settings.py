"""Every setting of the sidecar, where it may come from, and how it is read.

A setting is a flag (``--cache-key``), an environment variable (``BUILDSVC_CACHE_KEY``) or a key
of the YAML file that ``--config`` names (``cache_key``), in this order of precedence.
:mod:`sidecar.sources` collects them; this module and those of its bases say what they are.
"""

# ruff: noqa: RUF009  setting() makes a field().

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from buildsvc.logsettings import LogFormat, LogLevel, format_setting, level_setting
from buildsvc.setting import WrongSettings, read_values, setting, settings_of
from buildsvc.store.address import shown_address
from buildsvc.values import between, parse_integer, parse_size
from sidecar.cachesettings import CacheSettings
from sidecar.daemonsettings import DaemonSettings
from sidecar.endpoint import Address, parse_address
from sidecar.endpointsettings import EndpointSettings
from sidecar.values import parse_http_listen


def default_root(environ: Mapping[str, str]) -> Path:
    """Return the root directory of a user who named none (XDG base directories).

    Raises RuntimeError for a user without a home directory.
    """
    data = environ.get("XDG_DATA_HOME", "")
    # The specification says to ignore a relative path.
    base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return base / "buildsvc"


_WORK, _OUT = "work", "reporting"


@dataclass(frozen=True, kw_only=True)
class Settings(DaemonSettings, CacheSettings, EndpointSettings):
    """The effective settings of one sidecar: validated, immutable, paths absolute.

    The fields come in the order of the help, those of the bases first, from the right.
    """

    download_concurrency: int = setting(
        between(parse_integer, "1", "256"), 8, "Downloads at a time.", "N", _WORK
    )
    unpack_workers: int = setting(
        between(parse_integer, "1", "64"),
        min(4, os.cpu_count() or 1),
        "Processes that unpack. Default: one a CPU, up to 4.",
        "N",
        _WORK,
    )
    upload_limit: int | None = setting(
        between(parse_size, "1kB"),
        None,
        "Bytes a second that are sent to the store, on average. Default: no limit.",
        "SIZE",
        _WORK,
    )
    staging_limit: int = setting(
        between(parse_size, "64MiB"),
        "512MiB",
        "Bytes of downloads that wait to be unpacked.",
        "SIZE",
        _WORK,
    )

    http_listen: str = setting(
        parse_http_listen,
        "127.0.0.1:8378",
        "Where health, status, metrics and the timeline page are served; off: nowhere.",
        "HOST:PORT",
        _OUT,
    )
    log_format: LogFormat = format_setting(_OUT)
    log_level: LogLevel = level_setting(_OUT)

    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Self:
        """Return settings of values as people write them. Raises WrongSettings with all of it."""
        ours = {name: value for name, value in values.items() if name in SETTINGS}
        known, problems = read_values(SETTINGS, ours)
        problems += [(name, "no such setting") for name in values if name not in SETTINGS]
        if "root" not in values:
            problems.append(("root", "expected a directory; without a home there is no default"))
        # With defaults for what cannot be read, so that all that is wrong is told at once.
        settings = cls(**{"root": Path("/"), **known})
        unclear = "allow_reachable_endpoint" in (name for name, _ in problems)
        if not unclear and (wrong := settings.contradiction()):
            problems.append(("", wrong))
        if problems:
            raise WrongSettings(problems)
        return settings

    @property
    def http_address(self) -> Address | None:
        """Where to serve status over HTTP; None for nowhere."""
        return None if self.http_listen == "off" else parse_address(self.http_listen)

    def origin(self, name: str) -> str:
        """Say where a setting's value came from: a flag, a variable, a file, or the default."""
        return self.origins.get(name, "default")

    def with_origins(self, origins: Mapping[str, str]) -> Self:
        """Return the same settings that know where each value came from."""
        return replace(self, origins=dict(origins))

    def shown(self) -> dict[str, Any]:
        """Return every setting as it would be written, passwords in URLs masked."""
        values = {name: kind.written(getattr(self, name)) for name, kind in SETTINGS.items()}
        values["store"] = shown_address(self.store)
        return values


SETTINGS = settings_of(Settings)
"""Every setting by name, in the order of the help."""
