"""Runs in a user namespace: the agent's own mounts over its deaths. Prints what it saw."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc

from buildsvc._proto.containerd.services.snapshots.v1 import snapshots_pb2 as pb
from buildsvc._proto.containerd.services.snapshots.v1 import snapshots_pb2_grpc as pb_grpc
from buildsvc._proto.containerd.types import mount_pb2
from sidecar.agent import mounts


class Agent:
    def __init__(self, top: Path) -> None:
        self.root = top / "snapshots"
        socket = top / "s"
        words: list[str | Path] = [sys.executable, "-m", "sidecar.agent"]
        words += ["--root", self.root, "--socket", socket]
        self.process = subprocess.Popen(words)
        self.channel = grpc.insecure_channel(
            f"unix:{socket}", [("grpc.initial_reconnect_backoff_ms", 20)]
        )
        self.stub = pb_grpc.SnapshotsStub(self.channel)
        self.stub.Cleanup(pb.CleanupRequest(), wait_for_ready=True, timeout=30)

    def end(self, number: int) -> None:
        self.channel.close()
        self.process.send_signal(number)
        self.process.wait()

    def prepare(self, key: str, parent: str = "") -> Path:
        request = pb.PrepareSnapshotRequest(key=key, parent=parent)
        return Path(self.stub.Prepare(request).mounts[0].source)

    def mounts(self, key: str) -> mount_pb2.Mount:
        (mount,) = self.stub.Mounts(pb.MountsRequest(key=key)).mounts
        return mount

    def commit(self, key: str, name: str) -> None:
        self.stub.Commit(pb.CommitSnapshotRequest(key=key, name=name))

    def points(self) -> list[str]:
        return sorted(
            str(Path(point).relative_to(self.root)) for point in mounts.mount_points(str(self.root))
        )


def restarts(top: Path) -> None:
    agent = Agent(top)
    (agent.prepare("a") / "low").write_text("low")
    agent.commit("a", "A")
    merged = agent.prepare("b", "A")
    (merged / "before").write_text("before")
    line = next(
        x for x in Path("/proc/self/mountinfo").read_text().splitlines() if str(merged) in x
    )
    assert "volatile" in line, line
    assert "userxattr" in line, line
    agent.end(signal.SIGKILL)

    agent = Agent(top)
    assert agent.points() == ["2/merged"], agent.points()
    assert (merged / "before").read_text() == "before"
    print("adopted")

    # As after a new mount namespace: the mount is gone, the marker of a volatile overlay is there.
    agent.end(signal.SIGTERM)
    mounts.unmount(str(merged))
    work = agent.root / "2" / "work"
    assert (work / "work" / "incompat" / "volatile").is_dir()
    agent = Agent(top)
    assert agent.points() == []
    again = writable(agent.mounts("b"))
    assert (again / "before").read_text() == "before"
    assert (again / "low").read_text() == "low"
    mounts.unmount(str(again))
    print("remounted")

    agent.commit("b", "B")
    merged = agent.prepare("c", "B")
    with open(merged / "busy", "w") as busy:
        busy.write("early")
        busy.flush()
        agent.commit("c", "C")
        assert agent.points() == []
    view = agent.prepare("d", "C")
    assert sorted(os.listdir(view)) == ["before", "busy", "low"]
    print("committed-while-busy")

    assert agent.mounts("d").source == str(view)
    (view / "written").touch()
    reader = agent.mounts("d")
    agent.commit("d", "D")
    # An old answer leads nowhere, and not to an empty directory.
    assert not view.exists()
    # Only now does the client mount what it was told before the commit.
    assert sorted(os.listdir(readable(reader))) == ["before", "busy", "low", "written"]
    print("read-across-commit")

    agent.prepare("e", "D")
    # Killed before the row was written: the directory and its mount are nobody's.
    agent.end(signal.SIGKILL)
    (agent.root / "index.aside").write_bytes((agent.root / "index").read_bytes())
    agent = Agent(top)
    agent.prepare("f", "D")
    assert len(agent.points()) == 2
    agent.end(signal.SIGKILL)
    os.replace(agent.root / "index.aside", agent.root / "index")
    agent = Agent(top)
    agent.stub.Cleanup(pb.CleanupRequest())
    assert agent.points() == ["5/merged"], agent.points()
    assert not (agent.root / "6").exists()
    print("orphan-removed")
    agent.stub.Remove(pb.RemoveSnapshotRequest(key="e"))
    agent.end(signal.SIGTERM)


def readable(mount: mount_pb2.Mount) -> Path:
    """Mount it as BuildKit does what it only reads: the upper layer becomes the first lower one."""
    options = options_of(mount)
    target = fresh(Path(options["upperdir"]).parent)
    lower = [options["upperdir"], *options["lowerdir"].split(":")]
    mounts.mount_overlay(mounts.Overlay(lower), str(target))
    return target


def writable(mount: mount_pb2.Mount) -> Path:
    """Mount it as it is."""
    options = options_of(mount)
    target = fresh(Path(options["upperdir"]).parent)
    lower = options["lowerdir"].split(":")
    overlay = mounts.Overlay(lower, options["upperdir"], options["workdir"])
    mounts.mount_overlay(overlay, str(target))
    return target


def options_of(mount: mount_pb2.Mount) -> dict[str, str]:
    """The options of an overlay that have a value."""
    assert mount.type == "overlay", mount
    found = (option.partition("=") for option in mount.options)
    return {name: value for name, _, value in found if value}


def fresh(directory: Path) -> Path:
    """A new directory to mount at, outside of the agent's."""
    target = directory.parent.parent / f"client-{directory.name}"
    target.mkdir()
    return target


def many_layers(top: Path) -> None:
    """More layers than a page of mount options has room for."""
    root = top / "layers" / ("x" * 200)
    for number in range(480):
        (root / f"{100000 + number}" / "fs").mkdir(parents=True)
    (root / "100000/fs/bottom").write_text("here")
    (root / "merged").mkdir()
    mounts.own_working_directory(str(root))
    layers = [f"{100000 + number}/fs" for number in reversed(range(480))]
    mounts.mount_overlay(mounts.Overlay(layers), "merged")
    assert (root / "merged/bottom").read_text() == "here"
    mounts.unmount("merged")
    mounts.unmount("merged")
    print("many-layers")


def main() -> None:
    top = Path(sys.argv[1])
    restarts(top)
    many_layers(top)


if __name__ == "__main__":
    main()
