"""All peers by name, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from perf.comparison.names import CROWDS, HEAD_START, IN_CROWDS, crowd_of
from perf.comparison.peers import buildah, buildkit, buildsvc, dance, docker, kaniko
from perf.comparison.peers.contract import Peer
from perf.comparison.peers.crowd import Crowd
from perf.comparison.place import Place

PEERS: dict[str, Callable[[Place], Peer]] = {
    "buildsvc-first": buildsvc.First,
    "buildsvc-0s": lambda place: buildsvc.Buildsvc(place, 0),
    "buildsvc-5s": lambda place: buildsvc.Buildsvc(place, 5),
    "buildsvc-20s": lambda place: buildsvc.Buildsvc(place, 20),
    "warm": buildkit.Warm,
    "buildkit-cold": lambda place: buildkit.Cold(place, "buildkit-cold"),
    "buildkit-registry-zstd": lambda place: buildkit.Registry(place, "zstd"),
    "buildkit-registry-gzip": lambda place: buildkit.Registry(place, "gzip"),
    "buildkit-registry-plain": buildkit.Plain,
    "buildkit-cache-dance": dance.Dance,
    "buildkit-inline": lambda place: buildkit.Inline(place, "buildkit-inline"),
    "buildkit-local": buildkit.Local,
    "buildkit-s3-zstd": lambda place: buildkit.S3(place, "zstd"),
    "buildkit-s3-gzip": lambda place: buildkit.S3(place, "gzip"),
    "kaniko": kaniko.Kaniko,
    "dind-cold": lambda place: docker.Cold(place, "dind-cold"),
    "dind-cache-from": lambda place: docker.CacheFrom(place, "dind-cache-from"),
    "dind-kept": lambda place: docker.Kept(place, "dind-kept"),
    "buildah": buildah.Buildah,
    "buildkit-inline-zstd": lambda place: buildkit.Inline(place, "buildkit-inline-zstd", "zstd"),
    "buildkit-local-zstd": lambda place: buildkit.Local(place, "zstd"),
}


_IN_CROWDS: dict[str, Callable[[Place, str], Peer]] = {
    HEAD_START: lambda place, family: buildsvc.Buildsvc(place, 20, family),
    "buildkit-registry-zstd": lambda place, family: buildkit.Registry(place, "zstd", family),
}


def _crowd(name: str, size: int) -> Callable[[Place], Peer]:
    return lambda place: Crowd(place, _IN_CROWDS[name], name, size)


CROWDED: dict[str, Callable[[Place], Peer]] = {
    crowd_of(name, size): _crowd(name, size) for size in CROWDS for name in IN_CROWDS
}


def peers_of(place: Place, names: Sequence[str]) -> list[Peer]:
    """Make the peers of these names."""
    return [(PEERS | CROWDED)[name](place) for name in names]
