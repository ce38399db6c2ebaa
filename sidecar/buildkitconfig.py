"""buildkitd's configuration: the user's file merged with what the sidecar needs to decide.

The file's format is that of BuildKit's buildkitd.toml (docs/buildkitd.toml.md there).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from buildsvc.errors import ConfigError
from sidecar.tls import Certificates

# The user's builds need neither old logs nor old records; both would be in every generation.
_HISTORY = {"maxAge": 24 * 3600, "maxEntries": 20}

# Below this a daemon is of no use; a nearly full disk must not make the limit zero.
_LEAST_SPACE = 2_000_000_000


@dataclass(frozen=True)
class DaemonConfig:
    """What the sidecar decides about buildkitd. Sizes in bytes."""

    root: Path
    addresses: Sequence[str]
    snapshotter_socket: Path
    runc: Path
    max_used_space: int
    process_sandbox: bool = False
    certificates: Certificates | None = None

    def table(self) -> dict[str, Any]:
        """Return it as buildkitd.toml has it."""
        limit = str(self.max_used_space)
        grpc: dict[str, Any] = {"address": list(self.addresses)}
        if self.certificates is not None:
            files = self.certificates
            grpc["tls"] = {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)}
        return {
            "root": str(self.root),
            "grpc": grpc,
            "worker": {
                "oci": {
                    "enabled": True,
                    "rootless": True,
                    "noProcessSandbox": not self.process_sandbox,
                    "snapshotter": "overlayfs",
                    "proxySnapshotterPath": str(self.snapshotter_socket),
                    "binary": str(self.runc),
                    "gc": True,
                    # One rule. BuildKit's own list drops cache mounts after two days.
                    "gcpolicy": [{"all": True, "maxUsedSpace": limit}],
                },
                "containerd": {"enabled": False},
            },
        }


# Where a user's value may stand beside ours because it only says what holds when we say nothing.
_DEFAULTS: dict[str, Any] = {"history": _HISTORY}

# Keys that would undo a decision above although they are not the same key.
_FORBIDDEN = {
    ("grpc", "tls"): "the endpoint's certificates are made by the sidecar (--tls)",
    ("grpc", "uid"): "the private socket belongs to the sidecar's own user",
    ("grpc", "gid"): "the private socket belongs to the sidecar's own user",
    ("worker", "oci", "gckeepstorage"): "the local size limit is --max-used-space",
    ("worker", "oci", "reservedSpace"): "the local size limit is --max-used-space",
    ("worker", "oci", "maxUsedSpace"): "the local size limit is --max-used-space",
    ("worker", "oci", "minFreeSpace"): "the local size limit is --max-used-space",
    ("worker", "oci", "userRemapUnsupported"): "user ids are mapped by rootlesskit",
    ("worker", "oci", "networkMode"): "the network of RUN steps is --network",
}


def space_limit(root: Path) -> int:
    """Return the default of ``max_used_space``: 80 % of what is free for ``root`` now, in bytes.

    Blocks for a moment.
    """
    while not root.exists():
        root = root.parent
    disk = os.statvfs(root)
    return max(_LEAST_SPACE, disk.f_bavail * disk.f_frsize * 8 // 10)


def read_config(path: Path | None) -> dict[str, Any]:
    """Return the user's configuration, empty without a file. Blocks. Raises ConfigError."""
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--buildkitd-config {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--buildkitd-config {path} is no TOML: {error}") from error


def merged_config(user: Mapping[str, Any], ours: DaemonConfig, source: str = "") -> str:
    """Return the configuration for buildkitd, as TOML.

    ``source`` names the user's file in errors. Raises ConfigError that lists every conflict: a
    key that both set to different values.
    """
    conflicts = [
        f"{_dotted(keys)} = {_value(user, keys)!r} in {source}: {reason}"
        for keys, reason in _FORBIDDEN.items()
        if _value(user, keys) is not None
    ]
    entries = _value(user, ("history", "maxEntries"))
    if entries is not None and not (isinstance(entries, int) and entries > 0):
        conflicts.append(
            f"history.maxEntries = {entries!r} in {source}: expected a number from 1; without a"
            " history the sidecar does not learn of builds"
        )
    merged = _merge(ours.table(), user, (), source, conflicts)
    if conflicts:
        raise ConfigError(
            "\n".join(
                ["the buildkitd configuration is in conflict with the sidecar's:", *conflicts]
            ),
            advice="take these keys out of the file",
        )
    for name, table in _DEFAULTS.items():
        merged[name] = {**table, **merged.get(name, {})}
    return tomli_w.dumps(merged)


def _merge(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    above: tuple[str, ...],
    source: str,
    conflicts: list[str],
) -> dict[str, Any]:
    merged = dict(theirs)
    for key, value in ours.items():
        keys = (*above, key)
        found = theirs.get(key)
        if isinstance(value, dict) and isinstance(found, dict):
            merged[key] = _merge(value, found, keys, source, conflicts)
            continue
        if found is not None and found != value and keys not in _FORBIDDEN:
            conflicts.append(
                f"{_dotted(keys)} = {found!r} in {source}: the sidecar sets it to {value!r}"
            )
        merged[key] = value
    return merged


def _value(table: Mapping[str, Any], keys: Sequence[str]) -> object:
    found: object = table
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _dotted(keys: Sequence[str]) -> str:
    return ".".join(keys)
