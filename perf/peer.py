"""The field's answers: stock rootless buildkitd with its own overlayfs snapshotter."""

from __future__ import annotations

from pathlib import Path

from perf.daemon import Daemon
from perf.host import program

#: As the sidecar starts rootlesskit, so that RUN steps have the same network.
NETWORK = (
    "--net=slirp4netns",
    "--mtu=65520",
    "--slirp4netns-sandbox=auto",
    "--slirp4netns-seccomp=auto",
    "--disable-host-loopback",
    "--copy-up=/etc",
    "--copy-up=/run",
)


class StockDaemon(Daemon):
    """buildkitd as rootless users run it today. Warm when it is kept, fresh when it is new."""

    def __init__(self, base: Path, config: Path) -> None:
        super().__init__(base, f"unix://{base}/buildkitd.sock")
        self._config = config

    def command(self) -> list[str]:
        """Rootlesskit and buildkitd, the snapshotter named so that nothing is guessed."""
        return [
            *(program("rootlesskit"), f"--state-dir={self.base}/rootlesskit", *NETWORK),
            *(program("buildkitd"), f"--config={self._config}", f"--root={self.base}/root"),
            *("--addr", self.address, "--oci-worker-no-process-sandbox"),
            "--oci-worker-snapshotter=overlayfs",
        ]


def export_cache(reference: str) -> tuple[str, ...]:
    """Options of a build that writes BuildKit's own cache to a registry."""
    return (f"--export-cache=type=registry,ref={reference},mode=max",)


def import_cache(reference: str) -> tuple[str, ...]:
    """Options of a build that reads it."""
    return (f"--import-cache=type=registry,ref={reference}",)
