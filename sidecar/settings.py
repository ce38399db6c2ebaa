"""Every setting of the sidecar, where it may come from, and how it is read.

A setting is a flag (``--cache-key``), an environment variable (``BUILDSVC_CACHE_KEY``) or a key
of the YAML file that ``--config`` names (``cache_key``), in this order of precedence.
:mod:`sidecar.sources` collects them; this module says what they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from buildsvc.errors import EnvironmentUnfit
from sidecar.endpoint import DEFAULT_LISTEN, Address, parse_address
from sidecar.values import (
    Duration,
    HttpListen,
    Listen,
    Local,
    Name,
    Names,
    Networks,
    OnOff,
    Size,
    TlsMode,
)


def default_root(environ: Mapping[str, str]) -> Path:
    """Return the root directory of a user who named none (XDG base directories)."""
    data = environ.get("XDG_DATA_HOME", "")
    # The specification says to ignore a relative path.
    base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return base / "buildsvc"


def _setting(default: object, text: str, metavar: str, group: str) -> Any:  # noqa: ANN401  as Field
    return Field(
        default=default,
        description=text,
        json_schema_extra={"metavar": metavar, "group": group},
        validate_default=True,
    )


_HERE, _CACHE, _DAEMON, _WORK, _OUT = "endpoint", "cache", "daemon", "work", "reporting"


class Settings(BaseModel):
    """The effective settings of one sidecar: validated, immutable, paths absolute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Local = _setting(
        "", "Directory for everything local. Default: $XDG_DATA_HOME/buildsvc.", "DIR", _HERE
    )
    listen: Listen = _setting(
        DEFAULT_LISTEN, "Where buildctl connects to; port 0 chooses one.", "HOST:PORT", _HERE
    )
    endpoint_file: Local | None = _setting(
        None,
        "File that the address and the certificates' paths are written to, as JSON. "
        "Default: ROOT/endpoint.json.",
        "FILE",
        _HERE,
    )
    tls: TlsMode = _setting(
        "auto",
        "Mutual TLS with certificates made at start. auto: only where RUN steps could reach "
        "the endpoint otherwise.",
        "auto|on|off",
        _HERE,
    )
    tls_client_dir: Local | None = _setting(
        None,
        "Directory for the client's ca.pem, cert.pem and key.pem, such as an emptyDir shared "
        "with the image-build step. Default: ROOT/tls/client.",
        "DIR",
        _HERE,
    )
    allow_reachable_endpoint: OnOff = _setting(
        "off",
        "Accept a plain TCP endpoint that RUN steps of a build can reach.",
        "on|off",
        _HERE,
    )
    network: Literal["auto", "slirp4netns", "host"] = _setting(
        "auto",
        "Network of RUN steps. auto: a namespace of their own where /dev/net/tun works, "
        "else the host's.",
        "auto|slirp4netns|host",
        _HERE,
    )
    deny_cidr: Networks = _setting(
        (),
        "Network that RUN steps in their own namespace cannot reach, besides the cloud "
        "metadata addresses. May be repeated.",
        "CIDR",
        _HERE,
    )

    store: str = _setting(
        "", "Where the cache is kept: a directory or an URL. Empty: no cache.", "URL", _CACHE
    )
    cache_key: Name = _setting("default", "Name of the cache, such as a branch.", "NAME", _CACHE)
    fallback_keys: Names = _setting(
        (),
        "Name to try, in this order, where the cache key has no cache yet. May be repeated.",
        "NAME",
        _CACHE,
    )
    tenant: Name = _setting("default", "Tenant that the cache belongs to.", "NAME", _CACHE)
    trust_domain: Name = _setting(
        "default", "Trust domain that the cache is published to.", "NAME", _CACHE
    )
    publish: Literal["always", "on-success", "never"] = _setting(
        "always", "After which builds to publish.", "always|on-success|never", _CACHE
    )
    restore: Literal["lazy", "complete"] = _setting(
        "lazy",
        "lazy: clients are served at once, layers come when asked for. complete: clients wait "
        "until everything is local.",
        "lazy|complete",
        _CACHE,
    )
    demand_timeout: Annotated[Duration, Field(gt=0, le=35)] = _setting(
        "20s",
        "How long a build may wait for one object of the cache; at most 35s.",
        "DURATION",
        _CACHE,
    )
    grace: Annotated[Duration, Field(ge=0)] = _setting(
        "600s", "Time from SIGTERM to the end, publishing included.", "DURATION", _CACHE
    )

    max_used_space: Annotated[Size, Field(ge=1_000_000)] | None = _setting(
        None,
        "Limit of the daemon's local state; also bounds a generation. Default: 80% of the "
        "space free at start.",
        "SIZE",
        _DAEMON,
    )
    buildkitd_config: Local | None = _setting(
        None, "buildkitd.toml to merge with the sidecar's own settings.", "FILE", _DAEMON
    )
    buildkitd: str = _setting("buildkitd", "Program: name or path.", "PROGRAM", _DAEMON)
    runc: str = _setting("runc", "OCI runtime: name or path.", "PROGRAM", _DAEMON)
    rootlesskit: str = _setting("rootlesskit", "Program: name or path.", "PROGRAM", _DAEMON)
    tools_dir: Local | None = _setting(
        None, "Directory to look for programs in before PATH.", "DIR", _DAEMON
    )
    process_sandbox: OnOff = _setting(
        "off",
        "Give RUN steps a /proc of their own; in a pod this needs procMount: Unmasked.",
        "on|off",
        _DAEMON,
    )
    nofsync: OnOff = _setting(
        "on",
        "Answer fsync in the daemon and in RUN steps without work: their disk is thrown away.",
        "on|off",
        _DAEMON,
    )

    download_concurrency: Annotated[int, Field(ge=1, le=256)] = _setting(
        8, "Downloads at a time.", "N", _WORK
    )
    unpack_workers: Annotated[int, Field(ge=1, le=64)] = _setting(
        min(4, os.cpu_count() or 1),
        "Processes that unpack. Default: one a CPU, up to 4.",
        "N",
        _WORK,
    )
    staging_limit: Annotated[Size, Field(ge=64 << 20)] = _setting(
        "512MiB", "Bytes of downloads that wait to be unpacked.", "SIZE", _WORK
    )

    http_listen: HttpListen = _setting(
        "127.0.0.1:8378",
        "Where health, status, metrics and the timeline page are served; off: nowhere.",
        "HOST:PORT",
        _OUT,
    )
    log_format: Literal["auto", "human", "json"] = _setting(
        "auto", "auto: human on a terminal, else JSON.", "auto|human|json", _OUT
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "Least severe that is logged.", "LEVEL", _OUT
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.tls == "off" and not self.allow_reachable_endpoint and not self.address.loopback:
            raise ValueError(
                f"tls: off on {self.listen} lets RUN steps drive the daemon; use tls: auto, listen "
                "on 127.0.0.1, or say allow_reachable_endpoint: on"
            )
        return self

    @property
    def address(self) -> Address:
        """Where to listen, parsed."""
        return parse_address(self.listen)

    @property
    def http_address(self) -> Address | None:
        """Where to serve status over HTTP; None for nowhere."""
        return None if self.http_listen == "off" else parse_address(self.http_listen)

    @property
    def endpoint_path(self) -> Path:
        """The endpoint file, default applied."""
        return self.endpoint_file or self.root / "endpoint.json"

    @property
    def tls_client_path(self) -> Path:
        """The directory of the client's certificates, default applied."""
        return self.tls_client_dir or self.root / "tls" / "client"

    def program(self, name: str) -> Path:
        """Return the path of ``buildkitd``, ``runc``, ``rootlesskit`` or another program.

        A setting of that name may say another name or a path. Looked for in ``tools_dir``, then
        in PATH; raises EnvironmentUnfit when it is not there or may not be executed.
        """
        wanted = str(getattr(self, name, name))
        places = os.pathsep.join(
            [*([str(self.tools_dir)] if self.tools_dir else []), os.environ.get("PATH", os.defpath)]
        )
        found = shutil.which(wanted, path=places)
        if found is None:
            raise EnvironmentUnfit(
                f"{name} cannot be run",
                expected=f"a program {wanted} in {places}",
                found="none",
                advice=f"install it, or say where it is with --{name} or --tools-dir",
            )
        return Path(found).absolute()

    def origin(self, name: str) -> str:
        """Say where a setting's value came from: a flag, a variable, a file, or the default."""
        return self._origins.get(name, "default")

    def with_origins(self, origins: Mapping[str, str]) -> Self:
        """Return the same settings that know where each value came from."""
        copy = self.model_copy()
        copy._origins = dict(origins)  # noqa: SLF001  of this class
        return copy

    def shown(self) -> dict[str, Any]:
        """Return every setting as it would be written, passwords in URLs masked."""
        values = self.model_dump(mode="json")
        values["store"] = masked_url(self.store)
        return values


def masked_url(url: str) -> str:
    """Return the URL without user information and query, which may hold secrets."""
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    netloc = parts.netloc.rpartition("@")
    host = f"***@{netloc[2]}" if netloc[1] else netloc[2]
    return parts._replace(netloc=host, query="***" if parts.query else "").geturl()
