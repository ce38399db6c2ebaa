from __future__ import annotations

from pathlib import Path

import pytest

from buildsvc.errors import EnvironmentUnfit
from sidecar.guardclient import (
    Descriptors,
    Namespace,
    NamespaceLostError,
    NamespaceOptions,
    command,
)


def options(**changes: object) -> NamespaceOptions:
    arguments: dict[str, object] = {
        "rootlesskit": "rootlesskit",
        "state_dir": Path("/state"),
        "log": Path("/log"),
        "network": "own",
        "environment": {"PATH": "/nowhere"},
        "deny": ("192.0.2.0/24", "fd00::/8"),
    }
    return NamespaceOptions(**{**arguments, **changes})  # type: ignore[arg-type]


def test_own_network_reaches_neither_the_hosts_loopback_nor_what_is_denied() -> None:
    words = command(options(), Descriptors(control=31, listener=30, lock=32))
    assert "--net=slirp4netns" in words
    assert "--disable-host-loopback" in words
    assert words[-4:] == ["--deny", "192.0.2.0/24", "--deny", "fd00::/8"]
    assert words[words.index("--listen-fd") + 1] == "30"


def test_routes_of_the_hosts_network_are_left_alone() -> None:
    words = command(options(network="host"), Descriptors(control=40, listener=None, lock=None))
    assert "--net=host" in words
    assert "--deny" not in words
    # The defaults of the guard could be somebody else's descriptors.
    assert words[words.index("--listen-fd") + 1] == "-1"
    assert words[words.index("--lock-fd") + 1] == "-1"


async def test_a_namespace_that_could_not_start_can_be_closed() -> None:
    namespace = Namespace(options())
    with pytest.raises(EnvironmentUnfit, match="rootlesskit is not there"):
        await namespace.start()
    with pytest.raises(NamespaceLostError):
        await namespace.stop_daemon(0)
    await namespace.close()
