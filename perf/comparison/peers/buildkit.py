"""Stock rootless buildkitd: cold, warm, and with each of BuildKit's own caches.

A fresh pod runs the daemon as the image moby/buildkit:rootless does: in rootlesskit, with the
pod's network (https://github.com/moby/buildkit/blob/master/docs/rootless.md). Each cache is set up
as https://docs.docker.com/build/cache/backends/ and https://github.com/moby/buildkit#export-cache
say, with ``mode=max``: CI's usual choice, since with ``mode=min`` no stage but the last one is
cached. What these do not tell to change is as it is by default: OCI media types, an image manifest
for the cache, and a build that fails when its cache cannot be written. A fresh pod's build reads
the cache and does not write it; what writing it costs, the first build shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from perf.build import Built, Job
from perf.comparison.peers.bake import Bake, build_all, images
from perf.comparison.peers.command import run
from perf.comparison.peers.contract import Meter, Peer, Record, Span
from perf.comparison.place import Place
from perf.daemon import Daemon
from perf.host import stored_bytes
from perf.peer import StockDaemon
from perf.project import Project

#: Seconds below which a step is not shown.
_SHOWN = 0.02

_KEEP = """\
tar --create --file="$1" --directory="$2" --use-compress-program='zstdmt --long=30' .
curl --fail --silent --show-error --upload-file "$1" "$3"
"""
_FETCH = """\
curl --fail --silent --show-error "$1" |
tar --extract --directory="$2" --use-compress-program='unzstd --long=30'
"""


@dataclass(frozen=True)
class Caches:
    """Caches of one build, as the options of a client have them; empty where there is none."""

    written: str = ""
    read: str = ""

    def options(self, write: str, read: str) -> tuple[str, ...]:
        """Return them as options of these names."""
        both = ((write, self.written), (read, self.read))
        return tuple(f"{name}={cache}" for name, cache in both if cache)


class BuildKit(Peer):
    """A fresh daemon for each build; ``compression`` of the image's layers, gzip by default."""

    #: What its client calls the options for a cache to write, and one to read.
    cache_options = ("--export-cache", "--import-cache")

    def __init__(self, place: Place, name: str, compression: str = "") -> None:
        super().__init__(place, name)
        self.compression = compression

    def first(self) -> Record:
        """Build, and write the cache."""
        with self.daemon() as (meter, daemon):
            return {**self.build(meter, daemon, first=True), **meter.close()}

    def again(self) -> Record:
        """Build, reading the cache."""
        with self.daemon() as (meter, daemon):
            return {**self.build(meter, daemon), **meter.close()}

    @property
    def project(self) -> Project:
        """What is built, in its present state."""
        return self.place.project

    def caches(self, target: str, *, first: bool) -> Caches:  # noqa: ARG002 - of who has one
        """Return the caches of a build; ``target`` of a project that makes several images."""
        return Caches()

    def credentials(self) -> Mapping[str, str]:
        """Variables with which the daemon reaches the cache; no record has them."""
        return {}

    @contextmanager
    def starting(self) -> Iterator[tuple[Meter, StockDaemon]]:
        """A fresh daemon, as soon as its process has begun."""
        meter = Meter()
        base, added = self.place.fresh("stock"), self.credentials()
        with StockDaemon(base, self.place.config, own=False, added=added) as daemon:
            daemon.start(watched=False)
            meter.watch(daemon.pid)
            yield meter, daemon

    @contextmanager
    def daemon(self) -> Iterator[tuple[Meter, Daemon]]:
        """A fresh one, which answers."""
        with self.starting() as (meter, daemon):
            daemon.wait_answer()
            yield meter, daemon

    def job(self, *, first: bool = False) -> Job:
        """What to build, and the command for it."""
        project = self.project
        form = f"compression={self.compression}" if self.compression else ""
        if project.targets:
            every = [(target, self.caches(target, first=first)) for target in project.targets]
            names = ("cache-to", "cache-from")
            sets = [f"{target}.{o}" for target, one in every for o in one.options(*names)]
            return images(project, self.image(), form=form, options=sets)
        options = self.caches("", first=first).options(*self.cache_options)
        target = project.everything if first else ""
        return replace(project.job(self.image(), target=target, options=options), form=form)

    def built(self, daemon: Daemon, job: Job) -> Built:
        """Have a daemon build."""
        return build_all(daemon, job) if isinstance(job, Bake) else daemon.build(job)

    def build(self, meter: Meter, daemon: Daemon, *, first: bool = False) -> Record:
        """Build, and return all but what the meter says in the end."""
        up = meter.elapsed()
        built = self.built(daemon, self.job(first=first))
        return {
            "seconds": round(built.ended_unix - meter.began_unix, 3),
            "build_seconds": round(built.seconds, 3),
            "steps": len(built.progress.instructions),
            "cached": built.progress.cached,
            "cpu_seconds": round(meter.processor(), 2),
            "commands": [daemon.command(), built.command],
            "spans": [("daemon", 0.0, round(up, 3)), *build_spans(built, meter.began_unix)],
        }


class Cold(BuildKit):
    """No cache at all."""

    cold = True

    def first(self) -> Record:
        """Nothing: every build is a first one."""
        return {}


class Registry(BuildKit):
    """``type=registry``: the cache is an image of its own.

    Both images have the same compression, or each new layer would be compressed twice. Only the
    cache forces it upon layers that are there already: those of the base image, too, are then
    unpacked as fast as the others.
    """

    def __init__(self, place: Place, compression: str, name: str = "") -> None:
        super().__init__(place, name or f"buildkit-registry-{compression}", compression)

    def first(self) -> Record:
        """Build, and write the cache."""
        return {**super().first(), "stored_bytes": cached_bytes(self)}

    def caches(self, target: str, *, first: bool) -> Caches:
        """An image beside each image, with the compression that is asked for."""
        cache = f"type=registry,ref={self.cache(target)}"
        form = _forced(self.compression)
        return Caches(written=f"{cache},mode=max,{form}") if first else Caches(read=cache)


class Plain(Registry):
    """As `Registry` with zstd, by the Dockerfile without cache mounts.

    No cache of BuildKit's has cache mounts in it, so a fresh pod finds them empty: what is fetched
    into one is fetched again, and what is fetched without is a layer of its own in the cache.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place, "zstd", "buildkit-registry-plain")

    @property
    def project(self) -> Project:
        """The place's, by its other Dockerfile."""
        project = self.place.project
        return replace(project, dockerfile=project.plain())


class Inline(BuildKit):
    """``type=inline``: the image itself says what it was made of; of the last stage only."""

    def first(self) -> Record:
        """Build; the cache takes no more than the image does."""
        return {**super().first(), "stored_bytes": 0}

    def caches(self, target: str, *, first: bool) -> Caches:
        """In the image, of which the next build asks the same."""
        image = f"type=registry,ref={self.image(target)}"
        return Caches("type=inline", "" if first else image)


class Local(BuildKit):
    """``type=local``: a directory that CI's own cache carries from pod to pod.

    Layers as gzip, the default, or with another ``compression`` of image and cache alike.

    The recipe of https://docs.docker.com/build/ci/github-actions/cache/#local-cache. CI's cache
    keeps it as https://github.com/actions/cache does: a tar of zstd in a store, with the options of
    https://github.com/actions/toolkit/blob/main/packages/cache/src/internal/tar.ts. Unlike there it
    is unpacked as it arrives, and while the daemon starts.
    """

    def __init__(self, place: Place, compression: str = "") -> None:
        name = f"buildkit-local-{compression}" if compression else "buildkit-local"
        super().__init__(place, name, compression)
        self._store = place.store(self.family)
        self._url = f"{self._store.url}/cache.tar.zst"
        self._directory = Path()

    def first(self) -> Record:
        """Build, write the directory, and keep it."""
        with self.daemon() as (meter, daemon):
            self._directory = cache = daemon.base / "cache"
            record = self.build(meter, daemon, first=True)
            keep = bash(_KEEP, f"{cache}.tar.zst", str(cache), self._url)
            kept = run(keep, meter.memory)
            record |= meter.close()
        return {
            **record,
            "cpu_seconds": round(record["cpu_seconds"] + kept.cpu_seconds, 2),
            "commands": [*record["commands"], keep],
            "published_seconds": round(kept.ended_unix - kept.began_unix, 3),
            "stored_bytes": stored_bytes(self._store.directory),
        }

    def again(self) -> Record:
        """Fetch the directory, and build with it."""
        with self.starting() as (meter, daemon):
            self._directory = cache = daemon.base / "cache"
            cache.mkdir()
            fetch = bash(_FETCH, self._url, str(cache))
            with ThreadPoolExecutor(1) as beside:
                fetching = beside.submit(run, fetch, meter.memory)
                up = daemon.wait_answer()
                fetched = fetching.result()
            record = self.build(meter, daemon) | meter.close()
        began, ended = (
            round(at - meter.began_unix, 3) for at in (fetched.began_unix, fetched.ended_unix)
        )
        start, build = record["commands"]
        return {
            **record,
            "cpu_seconds": round(record["cpu_seconds"] + fetched.cpu_seconds, 2),
            "commands": [start, fetch, build],
            "spans": [("daemon", 0.0, round(up, 3)), ("cache", began, ended), *record["spans"][1:]],
        }

    def caches(self, target: str, *, first: bool) -> Caches:
        """A directory for each image."""
        where = self._directory / target
        if first:
            # buildx lets a bake write to directories that are there.
            where.mkdir(parents=True, exist_ok=True)
            form = f",{_forced(self.compression)}" if self.compression else ""
            return Caches(written=f"type=local,dest={where},mode=max{form}")
        return Caches(read=f"type=local,src={where}")


class S3(BuildKit):
    """``type=s3``, against MinIO; https://github.com/moby/buildkit#s3-cache-experimental.

    It takes no ``compression`` (https://github.com/moby/buildkit/issues/3071): a layer is stored as
    the image has it, and as gzip where the image does not have it. So with zstd the layers of
    earlier stages are gzip all the same.
    """

    def __init__(self, place: Place, compression: str) -> None:
        super().__init__(place, f"buildkit-s3-{compression}", compression)
        self._bucket = place.bucket()

    def first(self) -> Record:
        """Build, and write the cache."""
        record = super().first()
        return {**record, "stored_bytes": stored_bytes(self._bucket.directory / self.name)}

    def credentials(self) -> Mapping[str, str]:
        """In the daemon's environment, where the AWS SDK looks for them."""
        return self._bucket.credentials

    def caches(self, target: str, *, first: bool) -> Caches:
        """Objects below the peer's name, with a manifest for each image."""
        where = f"region=us-east-1,bucket={self._bucket.name},prefix={self.name}/"
        how = f"endpoint_url={self._bucket.endpoint},use_path_style=true"
        name = f"{self.place.project.name}-{target}" if target else self.place.project.name
        cache = f"type=s3,{where},name={name},{how}"
        return Caches(written=f"{cache},mode=max") if first else Caches(read=cache)


class Warm(BuildKit):
    """A daemon that stays up through all rounds: the field's best case."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, "warm")
        self._daemon: StockDaemon | None = None

    def first(self) -> Record:
        """Start it and build."""
        daemon = StockDaemon(self.place.fresh("warm"), self.place.config, own=False)
        self._daemon = daemon
        meter = Meter()
        daemon.start(watched=False)
        meter.watch(daemon.pid)
        daemon.wait_answer()
        return self.build(meter, daemon) | meter.close()

    def again(self) -> Record:
        """Build on it."""
        assert self._daemon is not None
        meter = Meter()
        meter.watch(self._daemon.pid)
        before = meter.processor()
        record = self.build(meter, self._daemon) | meter.close()
        record["cpu_seconds"] = round(record["cpu_seconds"] - before, 2)
        # There is no pod that would have to be started.
        return {**record, "seconds": None}

    def close(self) -> None:
        """End it."""
        if self._daemon is not None:
            self._daemon.__exit__(None, None, None)


def _forced(compression: str) -> str:
    """Options of a cache whose layers all have one compression."""
    return f"compression={compression},force-compression=true"


def cached_bytes(peer: Peer) -> int:
    """Return the size of the caches that a peer has beside its images in the registry."""
    registry = peer.place.images.use(peer.family)
    caches = [peer.cache(target) for target in peer.place.project.targets or ("",)]
    names = [cache.removeprefix(f"{registry.host}/").rpartition(":")[0] for cache in caches]
    return registry.stored_bytes(*names)


def build_spans(built: Built, began_unix: float) -> list[Span]:
    """What the build did, step by step, in seconds from the start of the pod.

    The client counts from its own start what the daemon tells from the first step on
    (``progresswriter.ResetTime``), as if it had not waited for the daemon: the last step ends when
    the client does.
    """
    steps = built.progress.steps.values()
    last = max((step.ended_unix for step in steps), default=0.0)
    began = began_unix - max(built.ended_unix - last, 0.0)
    spans = [
        (step.name[:80], round(step.ended_unix - began - step.seconds, 3),
         round(step.ended_unix - began, 3))
        for step in steps
        if step.seconds >= _SHOWN
    ]  # fmt: skip
    return sorted(spans, key=lambda span: span[1])


def bash(script: str, *arguments: str) -> list[str]:
    """A command that runs a script, and fails with any part of it."""
    return ["bash", "-o", "pipefail", "-ec", script, "bash", *arguments]
