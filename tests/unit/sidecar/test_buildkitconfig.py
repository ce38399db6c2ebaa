"""buildkitd's configuration: the user's keys stay, ours hold, conflicts name both."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from buildsvc.errors import ConfigError
from sidecar.buildkitconfig import DaemonConfig, merged_config, read_config, space_limit
from sidecar.tls import Certificates, ClientFiles

OURS = DaemonConfig(
    root=Path("/e/buildkit"),
    addresses=["fd://", "unix:///e/run/buildkitd.sock"],
    snapshotter_socket=Path("/e/run/snapshots.sock"),
    runc=Path("/usr/bin/runc"),
    max_used_space=20_000_000_000,
)


def merge(text: str = "", ours: DaemonConfig = OURS) -> dict[str, Any]:
    return tomllib.loads(merged_config(tomllib.loads(text), ours, "user.toml"))


def test_alone() -> None:
    found = merge()
    assert found["root"] == "/e/buildkit"
    assert found["grpc"] == {"address": ["fd://", "unix:///e/run/buildkitd.sock"]}
    worker = found["worker"]["oci"]
    assert worker["proxySnapshotterPath"] == "/e/run/snapshots.sock"
    assert (worker["rootless"], worker["noProcessSandbox"]) == (True, True)
    assert worker["binary"] == "/usr/bin/runc"
    assert found["worker"]["containerd"]["enabled"] is False
    assert found["history"]["maxEntries"] == 20


def test_one_policy_that_spares_cache_mounts() -> None:
    (policy,) = merge()["worker"]["oci"]["gcpolicy"]
    assert policy == {"all": True, "maxUsedSpace": "20000000000"}


def test_the_users_settings_stay() -> None:
    text = """
        debug = true
        [dns]
        nameservers = ["10.0.0.1"]
        [registry."docker.io"]
        mirrors = ["mirror.example:5000"]
        ca = ["/etc/ca.pem"]
        [registry."mirror.example:5000"]
        http = true
        insecure = true
        [worker.oci]
        max-parallelism = 4
        rootless = true
        [worker.oci.labels]
        pool = "ci"
        [history]
        maxEntries = 3
        [[registry."docker.io".keypair]]
        key = "k"
        cert = "c"
    """
    found = merge(text)
    user = tomllib.loads(text)
    assert found["dns"] == user["dns"]
    assert found["registry"] == user["registry"]
    assert found["debug"] is True
    assert found["worker"]["oci"]["max-parallelism"] == 4
    assert found["worker"]["oci"]["labels"] == {"pool": "ci"}
    assert found["history"] == {"maxAge": 86400, "maxEntries": 3}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[history]\nmaxEntries = 0", ["history.maxEntries = 0 in user.toml", "does not learn"]),
        ('root = "/x"', ["root = '/x' in user.toml", "'/e/buildkit'"]),
        ('[grpc]\naddress = ["tcp://0.0.0.0:1"]', ["grpc.address", "fd://"]),
        ('[worker.oci]\nsnapshotter = "native"', ["worker.oci.snapshotter = 'native'"]),
        ("[worker.oci]\nnoProcessSandbox = false", ["noProcessSandbox", "True"]),
        ("[worker.oci]\ngckeepstorage = 1", ["gckeepstorage", "--max-used-space"]),
        ('[worker.oci]\nmaxUsedSpace = "1GB"', ["maxUsedSpace", "--max-used-space"]),
        ("[[worker.oci.gcpolicy]]\nall = true", ["worker.oci.gcpolicy"]),
        ("[worker.containerd]\nenabled = true", ["worker.containerd.enabled"]),
        ('[grpc.tls]\ncert = "x"', ["grpc.tls", "--tls"]),
        ('[worker]\noci = "no table"', ["worker.oci = 'no table'"]),
    ],
)
def test_a_conflict_names_both(text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(text)
    for part in parts:
        assert part in str(caught.value)


def test_all_conflicts_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        merge('root = "/x"\n[worker.oci]\nsnapshotter = "native"\ngckeepstorage = 1')
    assert len([line for line in str(caught.value).splitlines() if "user.toml" in line]) == 3


def test_tls_and_process_sandbox() -> None:
    files = Certificates(Path("/ca"), Path("/cert"), Path("/key"), ClientFiles(Path("/c")))
    found = merge(
        ours=DaemonConfig(
            root=OURS.root,
            addresses=OURS.addresses,
            snapshotter_socket=OURS.snapshotter_socket,
            runc=OURS.runc,
            max_used_space=1,
            process_sandbox=True,
            certificates=files,
        )
    )
    assert found["grpc"]["tls"] == {"ca": "/ca", "cert": "/cert", "key": "/key"}
    assert found["worker"]["oci"]["noProcessSandbox"] is False


def test_reading(tmp_path: Path) -> None:
    assert read_config(None) == {}
    path = tmp_path / "b.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(path)
    path.write_text("a = [")
    with pytest.raises(ConfigError, match="no TOML"):
        read_config(path)
    path.write_text("debug = true")
    assert read_config(path) == {"debug": True}


def test_the_default_limit_follows_the_free_space(tmp_path: Path) -> None:
    limit = space_limit(tmp_path / "not" / "there")
    assert limit >= 2_000_000_000
    assert limit == pytest.approx(space_limit(tmp_path), rel=0.2)
