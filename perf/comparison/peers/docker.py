"""Docker in Docker: a fresh dockerd for each build, with a cache in the registry, or on a volume.

The daemon runs as dockerd-rootless.sh starts it, in rootlesskit with slirp4netns and
``--detach-netns`` (https://github.com/moby/moby/blob/master/contrib/dockerd-rootless.sh), with a
containerd of its own and the image store that is the default of new installations
(https://docs.docker.com/engine/storage/containerd/). The client is buildx with the default driver,
``docker``. Where this is not what the image docker:dind-rootless does, it is faster
(https://github.com/docker-library/docker/blob/master/dockerd-entrypoint.sh):

- dockerd pulls and pushes in the pod's network; without ``--detach-netns`` slirp4netns is between;
- RUN steps are in the pod's network too (``--network=host``), as those of all other peers, and not
  on a bridge behind slirp4netns; so no bridge is made, nor rules of a packet filter;
- there is no TLS between client and daemon, which are in one pod (``DOCKER_TLS_CERTDIR`` empty):
  the image makes RSA keys for it at its start.

rootlesskit without a network of its own would do, but dockerd v2.0.0-beta.24 then ends every
request for its version, which buildx needs, with a nil pointer.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from perf.build import Built, Job
from perf.comparison.peers.bake import Bake
from perf.comparison.peers.buildkit import BuildKit, Caches, cached_bytes
from perf.comparison.peers.contract import Meter, Record
from perf.comparison.place import Place
from perf.daemon import Daemon
from perf.host import PerfError, file_system, output, program, remove_tree, stored_bytes

_ROOTLESSKIT = (
    *("--net=slirp4netns", "--mtu=65520", "--slirp4netns-sandbox=auto"),
    *("--slirp4netns-seccomp=auto", "--disable-host-loopback", "--port-driver=builtin"),
    *("--copy-up=/etc", "--copy-up=/run", "--detach-netns"),
)
#: Below dockerd's data root: the directory whose file system containerd looks at (`perf.peer`).
_SNAPSHOTTER = "containerd/daemon/io.containerd.snapshotter.v1.overlayfs"
#: Seconds that one request waits for a daemon which listens, but does not serve yet.
_SERVES_WITHIN = 10.0


@dataclass(frozen=True)
class BuildxJob(Job):
    """A build as ``buildx build`` has it."""

    def command(self, client: Sequence[str], metadata: Path) -> list[str]:
        """The command line; ``client`` is ``buildx`` and how it reaches the daemon."""
        argv = [*client, "build", "--progress=rawjson", f"--metadata-file={metadata}"]
        argv += ["--network=host", f"--file={self.dockerfile}"]
        argv += [f"--build-arg={name}={value}" for name, value in self.arguments.items()]
        if self.target:
            argv.append(f"--target={self.target}")
        if self.image:
            argv += [f"--tag={self.image}", "--push"]
        return [*argv, *self.options, str(self.context)]


class Dockerd(Daemon):
    """dockerd on a data root; ``registry`` is one without TLS."""

    def __init__(self, base: Path, root: Path, registry: str) -> None:
        super().__init__(base, f"unix://{base}/docker.sock")
        self._root = root
        self._registry = registry

    def command(self) -> list[str]:
        """Start it in rootlesskit; it starts its containerd, which it finds beside itself."""
        return [
            *(program("rootlesskit"), f"--state-dir={self.base}/rootlesskit", *_ROOTLESSKIT),
            *(program("dockerd"), "--rootless", f"--host={self.address}"),
            *(f"--data-root={self._root}", f"--exec-root={self.base}/run"),
            *(f"--pidfile={self.base}/docker.pid", f"--insecure-registry={self._registry}"),
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--userland-proxy=false"),
        ]

    def client(self) -> list[str]:
        """``buildx`` and how it reaches the daemon; what it remembers is the pod's."""
        own = [f"DOCKER_HOST={self.address}", f"DOCKER_CONFIG={self.base}/client"]
        # Else it fetches the build's provenance for the metadata file, which only we ask for.
        return ["env", *own, "BUILDX_METADATA_PROVENANCE=disabled", program("buildx")]

    def wait_answer(self, within: float = 60.0) -> float:
        """Wait until it serves its API (``GET /_ping``); return the seconds since the start.

        Raises PerfError when it does not.
        """
        while not self._answers():
            self.check()
            if time.monotonic() - self.began > within:
                raise PerfError(f"no answer in {within:g} s:\n{self.log_end()}")
            time.sleep(0.02)
        return time.monotonic() - self.began

    def _answers(self) -> bool:
        # The daemon listens long before it serves; a request waits for that.
        connection = http.client.HTTPConnection("docker", timeout=_SERVES_WITHIN)
        with suppress(OSError), socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(_SERVES_WITHIN)
            channel.connect(self.address.removeprefix("unix://"))
            connection.sock = channel
            connection.request("GET", "/_ping")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False


@contextmanager
def data_root(root: Path) -> Iterator[Path]:
    """Make a directory for dockerd's data; it is removed afterwards.

    On a tmpfs containerd's snapshotter gets a ramfs for its database of some kilobytes, as stock
    buildkitd does (`perf.peer`); all layers stay on the tmpfs. The ramfs is mounted here and not in
    the daemon's namespace, since a root that is kept outlives the daemon.
    """
    snapshotter, layers = root / _SNAPSHOTTER, root / "layers"
    snapshotter.mkdir(parents=True)
    try:
        if file_system(root) != "tmpfs":
            yield root
            return
        layers.mkdir()
        output(["mount", "-t", "ramfs", "ramfs", str(snapshotter)])
        try:
            (snapshotter / "snapshots").symlink_to(layers)
            yield root
        finally:
            output(["umount", str(snapshotter)])
    finally:
        remove_tree(root)


class Docker(BuildKit):
    """A fresh daemon, and what is common to all of them: BuildKit is a part of dockerd."""

    cache_options = ("--cache-to", "--cache-from")

    def job(self, *, first: bool = False) -> Job:
        """With buildx."""
        job = super().job(first=first)
        if isinstance(job, Bake):
            # Not ``--set=*.network=host``: buildx 0.37.2 drops the value of that one.
            return replace(job, arguments={**job.arguments, "NETWORK": "host"})
        return BuildxJob(**vars(job))

    def built(self, daemon: Daemon, job: Job) -> Built:
        """With the client that knows dockerd, also where it bakes."""
        return daemon.build(job)

    @contextmanager
    def daemon(self) -> Iterator[tuple[Meter, Daemon]]:
        """A fresh one, which answers."""
        with data_root(self.place.fresh("docker-data")) as root, self.on(root) as started:
            yield started

    @contextmanager
    def on(self, root: Path) -> Iterator[tuple[Meter, Daemon]]:
        """A fresh daemon on a data root."""
        meter = Meter()
        with Dockerd(self.place.fresh("docker"), root, self.place.images.host) as daemon:
            daemon.start(watched=False)
            meter.watch(daemon.pid)
            daemon.wait_answer()
            yield meter, daemon


class Cold(Docker):
    """No cache at all."""

    cold = True

    def first(self) -> Record:
        """Nothing: every build is a first one."""
        return {}


class CacheFrom(Docker):
    """A cache in the registry, with the defaults of buildx but ``mode=max``.

    dockerd with containerd's image store knows the backends registry, inline, local and gha
    (https://docs.docker.com/build/cache/backends/). For builds of several stages Docker's and
    GitLab's documentation advise registry over inline, which knows the last stage alone
    (https://docs.docker.com/build/cache/backends/registry/,
    https://docs.gitlab.com/ci/docker/docker_layer_caching/).
    """

    def first(self) -> Record:
        """Build, and write the cache."""
        return {**super().first(), "stored_bytes": cached_bytes(self)}

    def caches(self, target: str, *, first: bool) -> Caches:
        """Of all stages, an image beside each image."""
        cache = f"type=registry,ref={self.cache(target)}"
        return Caches(written=f"{cache},mode=max") if first else Caches(read=cache)


class Kept(Docker):
    """A fresh daemon on the volume of the pod before, whose daemon had ended in good order.

    The image's data root is a volume (``VOLUME`` in Dockerfile-dind-rootless.template of
    docker-library/docker). Two daemons must not share one, so CI needs as many as it has pods at a
    time. Here the volume is on the same medium as all other files, and is there at once.
    """

    def __init__(self, place: Place, name: str) -> None:
        super().__init__(place, name)
        self._kept = ExitStack()
        self._root: Path | None = None

    @contextmanager
    def daemon(self) -> Iterator[tuple[Meter, Daemon]]:
        """A fresh one on the volume."""
        if self._root is None:
            self._root = self._kept.enter_context(data_root(self.place.fresh("docker-volume")))
        with self.on(self._root) as started:
            yield started

    def first(self) -> Record:
        """Build, and fill the volume."""
        record = super().first()
        assert self._root is not None
        return {**record, "stored_bytes": stored_bytes(self._root)}

    def close(self) -> None:
        """Remove the volume."""
        self._kept.close()
