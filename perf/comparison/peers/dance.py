"""BuildKit's registry cache, and the cache mounts carried from pod to pod beside it.

No cache of BuildKit's has cache mounts in it. Docker's documentation knows a way around that
(https://docs.docker.com/build/ci/github-actions/cache/#cache-mounts):
https://github.com/reproducible-containers/buildkit-cache-dance has a build of its own copy what
CI's cache has kept into the mounts before the build, and another one copy it out of them after it.
What is not as there makes it quicker:

- files travel through both builds as one tar, not one by one;
- one build serves all mounts, and pulls no image: its root file system is a static busybox;
- what CI keeps is fetched while the daemon starts, and unpacked as it arrives (`Local`);
- apt's downloads are left out where no step of apt's runs again: the layers are in the cache.
"""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from perf.change import FirstInstruction
from perf.comparison.names import DANCE
from perf.comparison.peers.buildkit import Registry, bash, cached_bytes
from perf.comparison.peers.command import Ran, run
from perf.comparison.peers.contract import Meter, Record, Span
from perf.comparison.place import Place
from perf.daemon import Daemon
from perf.host import program, stored_bytes
from perf.watch import Memory

_TAR = "mounts.tar"
_MOUNT = re.compile(r"--mount=type=cache,(?:id=([^,\s]+),)?target=([^,\s]+)")
_APT = "/var/cache/apt"

_IN = """\
FROM scratch
COPY busybox /
RUN {mounts} --mount=type=bind,source={tar},target=/{tar} \\
    ["/busybox", "tar", "-xf", "/{tar}", "-C", "/"]
"""
_OUT = """\
FROM scratch AS dance
COPY busybox /
RUN {mounts} ["/busybox", "tar", "-cf", "/{tar}", "-C", "/", {directories}]
FROM scratch
COPY --from=dance /{tar} /
"""
_KEEP = """\
zstdmt --long=30 --stdout "$1" |
curl --fail --silent --show-error --upload-file - "$2"
"""
_FETCH = """\
curl --fail --silent --show-error "$2" |
unzstd --long=30 --stdout > "$1"
"""


@dataclass(frozen=True)
class _Danced:
    """A build for the mounts: where it was, its command, and how it went."""

    directory: Path
    command: list[str]
    ran: Ran


class Dance(Registry):
    """`Registry` with zstd, by the Dockerfile with cache mounts, which are not empty."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, "zstd", DANCE)
        self._store = place.store(self.family)
        self._url = f"{self._store.url}/mounts.tar.zst"

    def first(self) -> Record:
        """Build, write the cache, and keep what is in the mounts."""
        with self.daemon() as (meter, daemon):
            record = self.build(meter, daemon, first=True)
            taken = self._dance(meter.memory, daemon, _OUT)
            cpu = meter.processor()
            tar = taken.directory / "out" / _TAR
            keep = bash(_KEEP, str(tar), self._url)
            kept = run(keep, meter.memory)
            record |= meter.close()
        return {
            **record,
            "cpu_seconds": round(cpu + kept.cpu_seconds, 2),
            "commands": [*record["commands"], taken.command, keep],
            "published_seconds": round(kept.ended_unix - taken.ran.began_unix, 3),
            "stored_bytes": cached_bytes(self) + stored_bytes(self._store.directory),
        }

    def again(self) -> Record:
        """Fill the mounts, and build with the cache."""
        with self.starting() as (meter, daemon):
            context = daemon.base / "dance"
            context.mkdir()
            fetch = bash(_FETCH, str(context / _TAR), self._url)
            with ThreadPoolExecutor(1) as beside:
                fetching = beside.submit(run, fetch, meter.memory)
                up = daemon.wait_answer()
                fetched = fetching.result()
            filled = self._dance(meter.memory, daemon, _IN)
            (context / _TAR).unlink()
            record = self.build(meter, daemon) | meter.close()
        start, build = record["commands"]
        return {
            **record,
            "cpu_seconds": round(record["cpu_seconds"] + fetched.cpu_seconds, 2),
            "commands": [start, fetch, filled.command, build],
            "spans": [
                ("daemon", 0.0, round(up, 3)),
                _span("cache", meter, fetched),
                _span("mounts", meter, filled.ran),
                *record["spans"][1:],
            ],
        }

    def mounts(self) -> list[str]:
        """Ids of the Dockerfile's cache mounts that are carried: their targets, if not given."""
        found = _MOUNT.findall(self.project.dockerfile.read_text())
        everything = isinstance(self.project.change, FirstInstruction) or len(self.place.bases) > 1
        ids = dict.fromkeys(name or target for name, target in found)
        return [name for name in ids if everything or not name.startswith(_APT)]

    def _dance(self, memory: Memory, daemon: Daemon, dockerfile: str) -> _Danced:
        """Build what fills the mounts from the tar in the context, or makes one of them."""
        mounts = self.mounts()
        context = daemon.base / "dance"
        context.mkdir(exist_ok=True)
        shutil.copy(program("busybox"), context)
        text = dockerfile.format(
            tar=_TAR,
            mounts=" ".join(f"--mount=type=cache,id={name},target={name}" for name in mounts),
            directories=", ".join(f'"{name.removeprefix("/")}"' for name in mounts),
        )
        (context / "Dockerfile").write_text(text)
        command = [
            *(*daemon.client(), "build", "--progress=plain", "--frontend=dockerfile.v0"),
            *(f"--local=context={context}", f"--local=dockerfile={context}"),
            *([f"--output=type=local,dest={context}/out"] if dockerfile is _OUT else []),
        ]
        return _Danced(context, command, run(command, memory))


def _span(name: str, meter: Meter, ran: Ran) -> Span:
    began, ended = (round(at - meter.began_unix, 3) for at in (ran.began_unix, ran.ended_unix))
    return name, began, ended
