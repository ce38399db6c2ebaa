"""The field's answers: stock rootless buildkitd with its own overlayfs snapshotter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perf.daemon import Daemon
from perf.host import file_system, own_network, program
from sidecar.rootlesskit import slirp4netns

_COPIES = ("--copy-up=/etc", "--copy-up=/run")


#: Runs buildkitd ("$@") where its root ($1) is on a tmpfs. containerd mounts no overlay with
#: ``userxattr`` if the snapshotter's directory is on one, though the kernel allows it since 6.6;
#: without it no new directory can be renamed, and dpkg fails. It looks at that directory alone:
#: a ramfs, for a database of some kilobytes. The layers stay on the tmpfs, as the pods' do.
_ON_TMPFS = """
set -e
mkdir -p "$1/runc-overlayfs/snapshots" "$1/layers"
mount -t ramfs ramfs "$1/runc-overlayfs/snapshots"
ln -s "$1/layers" "$1/runc-overlayfs/snapshots/snapshots"
shift
exec "$@"
"""


class StockDaemon(Daemon):
    """buildkitd as rootless users run it today. Warm when it is kept, fresh when it is new.

    ``own``: RUN steps have a network of their own where that works here, as in a pod of ours;
    without it they have the daemon's. ``added``: variables for its environment.
    """

    def __init__(
        self, base: Path, config: Path, *, own: bool = True, added: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(base, f"unix://{base}/buildkitd.sock")
        self._config = config
        self._own = own
        self._added = added or {}

    def environment(self) -> Mapping[str, str]:
        """Its own and what is added."""
        return {**super().environment(), **self._added}

    def command(self) -> list[str]:
        """Start it in rootlesskit, the snapshotter named so that nothing is guessed."""
        root = f"{self.base}/root"
        # As the sidecar starts rootlesskit, so that RUN steps have the same network.
        network = slirp4netns() if self._own and own_network() else ("--net=host",)
        wrapper = ["sh", "-c", _ON_TMPFS, "sh", root] if file_system(self.base) == "tmpfs" else []
        return [
            *(program("rootlesskit"), f"--state-dir={self.base}/rootlesskit", *network, *_COPIES),
            *wrapper,
            *(program("buildkitd"), f"--config={self._config}", f"--root={root}"),
            *("--addr", self.address, "--oci-worker-no-process-sandbox"),
            "--oci-worker-snapshotter=overlayfs",
        ]


def export_cache(reference: str) -> tuple[str, ...]:
    """Options of a build that writes BuildKit's own cache to a registry."""
    return (f"--export-cache=type=registry,ref={reference},mode=max",)


def import_cache(reference: str) -> tuple[str, ...]:
    """Options of a build that reads it."""
    return (f"--import-cache=type=registry,ref={reference}",)
