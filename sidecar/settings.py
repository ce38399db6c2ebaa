"""Every setting of the sidecar, where it may come from, and how it is read.

A setting is a flag (``--cache-key``), an environment variable (``BUILDSVC_CACHE_KEY``) or a key
of the YAML file that ``--config`` names (``cache_key``), in this order of precedence.
:mod:`sidecar.sources` collects them; this module says what they are.
"""

# ruff: noqa: RUF009  setting() makes a field().

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from buildsvc.errors import EnvironmentUnfit
from buildsvc.keyplaces import KeyPlace, parse_key_place
from buildsvc.store.address import shown_address
from sidecar.endpoint import DEFAULT_LISTEN, Address, parse_address
from sidecar.keynames import key_names, parse_key_name
from sidecar.setting import Setting, WrongSettings, setting
from sidecar.values import (
    between,
    one_of,
    parse_duration,
    parse_http_listen,
    parse_integer,
    parse_listen,
    parse_mount_pattern,
    parse_name,
    parse_network,
    parse_path,
    parse_program,
    parse_size,
    parse_store,
    parse_switch,
    parse_verify_key,
    several,
)


def default_root(environ: Mapping[str, str]) -> Path:
    """Return the root directory of a user who named none (XDG base directories).

    Raises RuntimeError for a user without a home directory.
    """
    data = environ.get("XDG_DATA_HOME", "")
    # The specification says to ignore a relative path.
    base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return base / "buildsvc"


_HERE, _CACHE, _DAEMON, _WORK, _OUT = "endpoint", "cache", "daemon", "work", "reporting"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The effective settings of one sidecar: validated, immutable, paths absolute."""

    # Required: its default depends on the environment.
    root: Path = field(
        metadata={
            "setting": Setting(
                parse_path,
                "",
                "Directory for everything local. Default: $XDG_DATA_HOME/buildsvc.",
                "DIR",
                _HERE,
            )
        }
    )
    listen: str = setting(
        parse_listen,
        DEFAULT_LISTEN,
        "Where buildctl connects to; port 0 chooses one.",
        "HOST:PORT",
        _HERE,
    )
    endpoint_file: Path | None = setting(
        parse_path,
        None,
        "File that the address and the certificates' paths are written to, as JSON. "
        "Default: ROOT/endpoint.json.",
        "FILE",
        _HERE,
    )
    tls: Literal["auto", "on", "off"] = setting(
        one_of("auto", "on", "off"),
        "auto",
        "Mutual TLS with certificates made at start. auto: only where RUN steps could reach "
        "the endpoint otherwise.",
        "auto|on|off",
        _HERE,
    )
    tls_client_dir: Path | None = setting(
        parse_path,
        None,
        "Directory for the client's ca.pem, cert.pem and key.pem, such as an emptyDir shared "
        "with the image-build step. Default: ROOT/tls/client.",
        "DIR",
        _HERE,
    )
    allow_reachable_endpoint: bool = setting(
        parse_switch,
        "off",
        "Accept a plain TCP endpoint that RUN steps of a build can reach.",
        "on|off",
        _HERE,
    )
    network: Literal["auto", "slirp4netns", "host"] = setting(
        one_of("auto", "slirp4netns", "host"),
        "auto",
        "Network of RUN steps. auto: a namespace of their own where /dev/net/tun works, "
        "else the host's.",
        "auto|slirp4netns|host",
        _HERE,
    )
    deny_cidr: tuple[str, ...] = setting(
        several(parse_network),
        (),
        "Network that RUN steps in their own namespace cannot reach, besides the cloud "
        "metadata addresses. May be repeated.",
        "CIDR",
        _HERE,
    )

    store: str = setting(
        parse_store,
        "",
        "Where the cache is kept: a directory or an URL. Empty: no cache.",
        "URL",
        _CACHE,
    )
    allow_instance_role: bool = setting(
        parse_switch,
        "off",
        "Accept that RUN steps on the host's network can take the instance's role, with which the "
        "store is used (credentials=ecs).",
        "on|off",
        _CACHE,
    )
    cache_key: str = setting(
        parse_key_name,
        "default",
        "Name of the cache. Placeholders such as {repository}/{branch} are filled from the CI "
        "system's variables.",
        "NAME",
        _CACHE,
    )
    fallback_key: tuple[str, ...] = setting(
        several(parse_key_name),
        (),
        "Name to try, in this order, where the cache key has no cache yet. May be repeated.",
        "NAME",
        _CACHE,
    )
    tenant: str = setting(
        parse_name, "default", "Tenant that the cache belongs to.", "NAME", _CACHE
    )
    trust_domain: str = setting(
        parse_name, "default", "Trust domain that the cache is published to.", "NAME", _CACHE
    )
    read_domain: tuple[str, ...] = setting(
        several(parse_name),
        (),
        "Trust domain to start from, without writing to it, where the own one has nothing under "
        "the cache key yet. May be repeated.",
        "NAME",
        _CACHE,
    )
    fork_reads: Literal["none", "layers", "all"] = setting(
        one_of("none", "layers", "all"),
        "layers",
        "What to take from the domains of --read-domain. layers: cache mounts, which may hold "
        "credentials, begin empty.",
        "none|layers|all",
        _CACHE,
    )
    exclude_mount: tuple[str, ...] = setting(
        several(parse_mount_pattern),
        (),
        "Cache mounts that are neither published nor restored: their id or target, in which * "
        "stands for any text. May be repeated.",
        "PATTERN",
        _CACHE,
    )
    signing_key: Path | None = setting(
        parse_path,
        None,
        "Private key (Ed25519, PEM) that the heads of published generations are signed with.",
        "FILE",
        _CACHE,
    )
    verify_key: tuple[str, ...] = setting(
        several(parse_verify_key),
        (),
        "Public key, or directory of them (*.pem), that may sign for a tenant's trust domain. With "
        "any, only generations signed by one of them are read. May be repeated.",
        "TENANT/DOMAIN=PATH",
        _CACHE,
    )
    publish: Literal["always", "on-success", "never"] = setting(
        one_of("always", "on-success", "never"),
        "always",
        "After which builds to publish.",
        "always|on-success|never",
        _CACHE,
    )
    restore: Literal["lazy", "complete"] = setting(
        one_of("lazy", "complete"),
        "lazy",
        "lazy: clients are served at once, layers come when asked for. complete: clients wait "
        "until everything is local.",
        "lazy|complete",
        _CACHE,
    )
    demand_timeout: float = setting(
        between(parse_duration, "1ms", "35s"),
        "20s",
        "How long a build may wait for one object of the cache; at most 35s.",
        "DURATION",
        _CACHE,
    )
    grace: float = setting(
        between(parse_duration, "0s"),
        "600s",
        "Time from SIGTERM to the end, publishing included.",
        "DURATION",
        _CACHE,
    )

    max_used_space: int | None = setting(
        between(parse_size, "1MB"),
        None,
        "Limit of the daemon's local state; also bounds a generation. Default: 80% of the "
        "space free at start.",
        "SIZE",
        _DAEMON,
    )
    buildkitd_config: Path | None = setting(
        parse_path,
        None,
        "buildkitd.toml to merge with the sidecar's own settings.",
        "FILE",
        _DAEMON,
    )
    buildkitd: str = setting(
        parse_program, "buildkitd", "Program: name or path.", "PROGRAM", _DAEMON
    )
    runc: str = setting(parse_program, "runc", "OCI runtime: name or path.", "PROGRAM", _DAEMON)
    rootlesskit: str = setting(
        parse_program, "rootlesskit", "Program: name or path.", "PROGRAM", _DAEMON
    )
    tools_dir: Path | None = setting(
        parse_path, None, "Directory to look for programs in before PATH.", "DIR", _DAEMON
    )
    process_sandbox: bool = setting(
        parse_switch,
        "off",
        "Give RUN steps a /proc of their own; in a pod this needs procMount: Unmasked.",
        "on|off",
        _DAEMON,
    )
    nofsync: bool = setting(
        parse_switch,
        "on",
        "Answer fsync in the daemon and in RUN steps without work: their disk is thrown away.",
        "on|off",
        _DAEMON,
    )

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
    log_format: Literal["auto", "human", "json"] = setting(
        one_of("auto", "human", "json"),
        "auto",
        "auto: human on a terminal, else JSON.",
        "auto|human|json",
        _OUT,
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        one_of("debug", "info", "warning", "error"),
        "info",
        "Least severe that is logged.",
        "LEVEL",
        _OUT,
    )

    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Self:
        """Return settings of values as people write them. Raises WrongSettings with all of it."""
        problems = [(name, "no such setting") for name in values if name not in SETTINGS]
        known: dict[str, Any] = {}
        for name, kind in SETTINGS.items():
            if name in values:
                try:
                    known[name] = kind.read(values[name])
                except ValueError as error:
                    problems.append((name, str(error)))
        if "root" not in values:
            problems.append(("root", "expected a directory; without a home there is no default"))
        # With defaults for what cannot be read, so that all that is wrong is told at once.
        settings = cls(**{"root": Path("/"), **known})
        unclear = "allow_reachable_endpoint" in (name for name, _ in problems)
        if not unclear and (wrong := settings._together()):
            problems.append(("", wrong))
        if problems:
            raise WrongSettings(problems)
        return settings

    def _together(self) -> str:
        if self.tls == "off" and not self.allow_reachable_endpoint and not self.address.loopback:
            return (
                f"tls: off on {self.listen} lets RUN steps drive the daemon; use tls: auto, listen "
                "on 127.0.0.1, or say allow_reachable_endpoint: on"
            )
        return ""

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

    def named(self, variables: Mapping[str, str]) -> Self:
        """Return the same settings with the names that the templates of keys make.

        Raises ConfigError when a variable is missing.
        """
        own, *fallbacks = key_names(self.cache_key, self.fallback_key, variables)
        return replace(self, cache_key=own, fallback_key=tuple(fallbacks))

    @property
    def read_domains(self) -> tuple[str, ...]:
        """Trust domains that are read besides the own one, in order."""
        if self.fork_reads == "none":
            return ()
        return tuple(dict.fromkeys(one for one in self.read_domain if one != self.trust_domain))

    @property
    def verify_keys(self) -> list[KeyPlace]:
        """Tenant, trust domain and path of each verify key."""
        return [parse_key_place(text) for text in self.verify_key]

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
        return self.origins.get(name, "default")

    def with_origins(self, origins: Mapping[str, str]) -> Self:
        """Return the same settings that know where each value came from."""
        return replace(self, origins=dict(origins))

    def shown(self) -> dict[str, Any]:
        """Return every setting as it would be written, passwords in URLs masked."""
        values = {name: kind.written(getattr(self, name)) for name, kind in SETTINGS.items()}
        values["store"] = shown_address(self.store)
        return values


SETTINGS: Mapping[str, Setting] = {
    entry.name: entry.metadata["setting"] for entry in fields(Settings) if entry.metadata
}
"""Every setting by name, in the order of the help."""
