"""Settings of the cache: which one is read and published, by whom, and when."""

# ruff: noqa: RUF009  setting() makes a field().

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from buildsvc.keynames import key_names, parse_key_name
from buildsvc.keyplaces import KeyPlace, parse_key_place
from buildsvc.setting import setting
from buildsvc.values import (
    between,
    one_of,
    parse_duration,
    parse_name,
    parse_path,
    parse_switch,
    several,
)
from sidecar.values import parse_mount_pattern, parse_store, parse_verify_key

_GROUP = "cache"


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Fields of the settings, and what follows from them alone."""

    store: str = setting(
        parse_store,
        "",
        "Where the cache is kept: a directory or an URL. Empty: no cache.",
        "URL",
        _GROUP,
    )
    allow_instance_role: bool = setting(
        parse_switch,
        "off",
        "Accept that RUN steps on the host's network can take the instance's role, with which the "
        "store is used (credentials=ecs).",
        "on|off",
        _GROUP,
    )
    cache_key: str = setting(
        parse_key_name,
        "default",
        "Name of the cache. Placeholders such as {repository}/{branch} are filled from the CI "
        "system's variables.",
        "NAME",
        _GROUP,
    )
    fallback_key: tuple[str, ...] = setting(
        several(parse_key_name),
        (),
        "Name to try, in this order, where the cache key has no cache yet. May be repeated.",
        "NAME",
        _GROUP,
    )
    tenant: str = setting(
        parse_name, "default", "Tenant that the cache belongs to.", "NAME", _GROUP
    )
    trust_domain: str = setting(
        parse_name, "default", "Trust domain that the cache is published to.", "NAME", _GROUP
    )
    read_domain: tuple[str, ...] = setting(
        several(parse_name),
        (),
        "Trust domain to start from, without writing to it, where the own one has nothing under "
        "the cache key yet. May be repeated.",
        "NAME",
        _GROUP,
    )
    fork_reads: Literal["none", "layers", "all"] = setting(
        one_of("none", "layers", "all"),
        "layers",
        "What to take from the domains of --read-domain. layers: cache mounts, which may hold "
        "credentials, begin empty.",
        "none|layers|all",
        _GROUP,
    )
    exclude_mount: tuple[str, ...] = setting(
        several(parse_mount_pattern),
        (),
        "Cache mounts that are neither published nor restored: their id or target, in which * "
        "stands for any text. May be repeated.",
        "PATTERN",
        _GROUP,
    )
    signing_key: Path | None = setting(
        parse_path,
        None,
        "Private key (Ed25519, PEM) that the heads of published generations are signed with.",
        "FILE",
        _GROUP,
    )
    verify_key: tuple[str, ...] = setting(
        several(parse_verify_key),
        (),
        "Public key, or directory of them (*.pem), that may sign for a tenant's trust domain. With "
        "any, only generations signed by one of them are read. May be repeated.",
        "TENANT/DOMAIN=PATH",
        _GROUP,
    )
    publish: Literal["always", "on-success", "never"] = setting(
        one_of("always", "on-success", "never"),
        "always",
        "After which builds to publish.",
        "always|on-success|never",
        _GROUP,
    )
    restore: Literal["lazy", "complete"] = setting(
        one_of("lazy", "complete"),
        "lazy",
        "lazy: clients are served at once, layers come when asked for. complete: clients wait "
        "until everything is local.",
        "lazy|complete",
        _GROUP,
    )
    demand_timeout: float = setting(
        between(parse_duration, "1ms", "35s"),
        "20s",
        "How long a build may wait for one object of the cache; at most 35s.",
        "DURATION",
        _GROUP,
    )
    grace: float = setting(
        between(parse_duration, "0s"),
        "600s",
        "Time from SIGTERM to the end, publishing included.",
        "DURATION",
        _GROUP,
    )

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
