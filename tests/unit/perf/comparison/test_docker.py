"""Command lines of dockerd and buildx, the wait for the daemon, and which data root it has."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from perf.change import Nothing
from perf.comparison.peers import docker
from perf.comparison.peers.docker import BuildxJob, CacheFrom, Dockerd, Kept, data_root
from perf.comparison.place import Place
from perf.host import PerfError
from perf.project import Project


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "program", lambda name: f"/bin/{name}")


class FakePlace:
    def __init__(self, scratch: Path) -> None:
        self.images = SimpleNamespace(host="r:5000")
        self.pod = ""
        dockerfile = Path("/c/Dockerfile")
        self.project = Project("go", Path("/c"), dockerfile, Nothing(), {"BASE": "b"})
        self._scratch = scratch
        self._number = 0

    def fresh(self, name: str) -> Path:
        self._number += 1
        return self._scratch / f"{name}-{self._number}"


def test_command_line_of_a_build() -> None:
    job = BuildxJob(Path("/c"), Path("/d/My.Dockerfile"), "r/i:t", {"BASE": "b"}, "t", ("--pull",))

    assert job.command(["buildx"], Path("/m")) == [
        "buildx",
        "build",
        "--progress=rawjson",
        "--metadata-file=/m",
        "--network=host",
        "--file=/d/My.Dockerfile",
        "--build-arg=BASE=b",
        "--target=t",
        "--tag=r/i:t",
        "--push",
        "--pull",
        "/c",
    ]


def test_a_build_without_an_image_pushes_nothing() -> None:
    assert "--push" not in BuildxJob(Path("/c"), Path("/c/D")).command(["buildx"], Path("/m"))


@pytest.mark.usefixtures("programs")
def test_daemon_and_client_keep_everything_below_the_pod_and_the_data_root() -> None:
    daemon = Dockerd(Path("/p"), Path("/v"), "r:5000")

    command = daemon.command()
    started = command.index("/bin/dockerd")
    assert command[0] == "/bin/rootlesskit"
    assert "--detach-netns" in command[:started]
    assert {
        "--host=unix:///p/docker.sock",
        "--data-root=/v",
        "--exec-root=/p/run",
        "--pidfile=/p/docker.pid",
        "--insecure-registry=r:5000",
    } <= set(command[started:])
    assert daemon.client() == [
        "env",
        "DOCKER_HOST=unix:///p/docker.sock",
        "DOCKER_CONFIG=/p/client",
        "BUILDX_METADATA_PROVENANCE=disabled",
        "/bin/buildx",
    ]


def test_the_cache_is_an_image_of_its_own_that_only_the_first_build_writes(tmp_path: Path) -> None:
    peer = CacheFrom(cast("Place", FakePlace(tmp_path)), "dind-cache-from")

    written = "--cache-to=type=registry,ref=r:5000/cache/go:latest,mode=max"
    assert written in peer.job(first=True).command(["buildx"], Path("/m"))
    assert peer.job().command(["buildx"], Path("/m"))[-4:] == [
        "--tag=r:5000/built/go:latest",
        "--push",
        "--cache-from=type=registry,ref=r:5000/cache/go:latest",
        "/c",
    ]


def test_several_images_are_baked_by_dockerd_itself(tmp_path: Path) -> None:
    place = FakePlace(tmp_path)
    place.project = replace(place.project, targets=("one", "two"))
    argv = CacheFrom(cast("Place", place), "dind-cache-from").job().command(["buildx"], Path("/m"))

    assert argv[argv.index("buildx") + 1] == "bake"
    assert "NETWORK=host" in argv
    assert "--allow=network.host" in argv
    assert "--set=two.cache-from=type=registry,ref=r:5000/cache/go/two:latest" in argv


class Started(Dockerd):
    """One whose process runs, or has ended."""

    ended = False

    def __init__(self, base: Path) -> None:
        super().__init__(base, base, "r:5000")
        self.began = time.monotonic()

    def check(self) -> None:
        if self.ended:
            raise PerfError("ended")


def _serve(server: socket.socket, answers: list[bytes]) -> None:
    for answer in answers:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)


def test_a_daemon_answers_when_it_serves_ping(tmp_path: Path) -> None:
    answers = [
        b"",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK",
    ]
    daemon = Started(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(daemon.address.removeprefix("unix://"))
        server.listen()
        thread = threading.Thread(target=_serve, args=(server, answers), daemon=True)
        thread.start()
        daemon.wait_answer()
        thread.join()


def test_waiting_ends_with_the_daemon(tmp_path: Path) -> None:
    daemon = Started(tmp_path)
    daemon.ended = True

    with pytest.raises(PerfError, match="ended"):
        daemon.wait_answer()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    commands: list[str] = []

    def output(argv: list[str]) -> str:
        commands.append(" ".join(argv))
        return ""

    monkeypatch.setattr(docker, "output", output)
    return commands


def test_on_a_tmpfs_only_the_snapshotters_directory_is_a_ramfs(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "file_system", lambda _: "tmpfs")
    root = tmp_path / "root"
    snapshotter = root / "containerd/daemon/io.containerd.snapshotter.v1.overlayfs"

    with data_root(root):
        assert ran == [f"mount -t ramfs ramfs {snapshotter}"]
        assert (snapshotter / "snapshots").readlink() == root / "layers"

    assert ran[1:] == [f"umount {snapshotter}"]
    assert not root.exists()


def test_on_a_disk_nothing_is_mounted(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "file_system", lambda _: "ext2/ext3")

    with data_root(tmp_path / "root") as root:
        assert root.is_dir()

    assert not ran
    assert not root.exists()


@pytest.mark.usefixtures("ran")
def test_a_kept_data_root_lasts_until_the_peer_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Path] = []

    @contextmanager
    def on(_: Kept, root: Path) -> Iterator[tuple[SimpleNamespace, None]]:
        used.append(root)
        (root / "layer").write_text("abc")
        yield SimpleNamespace(close=lambda: {"sent_bytes": 5}), None

    monkeypatch.setattr(docker, "file_system", lambda _: "ext2/ext3")
    monkeypatch.setattr(Kept, "on", on)
    monkeypatch.setattr(Kept, "build", lambda *_, **__: {"seconds": 1.0})
    peer = Kept(cast("Place", FakePlace(tmp_path)), "dind-kept")

    assert peer.first() == {"seconds": 1.0, "sent_bytes": 5, "stored_bytes": 3}
    assert peer.again() == {"seconds": 1.0, "sent_bytes": 5}
    assert used[0] == used[1]
    assert used[0].exists()
    peer.close()
    assert not used[0].exists()
