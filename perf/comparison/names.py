"""What peers and scenarios are called, and the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OURS = "buildsvc"
#: Builds for the first time in every round.
FIRST = "buildsvc-first"
NO_START, SOME_START, HEAD_START = "buildsvc-0s", "buildsvc-5s", "buildsvc-20s"
WARM, COLD = "warm", "buildkit-cold"
#: By the Dockerfile without cache mounts.
PLAIN = "buildkit-registry-plain"
#: With cache mounts that are carried from pod to pod.
DANCE = "buildkit-cache-dance"

#: In the order in which they are shown; what was kept on a node stands together.
PEERS = (
    *(FIRST, NO_START, SOME_START, HEAD_START, WARM, "dind-kept", COLD),
    *("buildkit-registry-zstd", "buildkit-registry-gzip", PLAIN, DANCE),
    *("buildkit-inline", "buildkit-local", "buildkit-s3-zstd", "buildkit-s3-gzip"),
    *("kaniko", "dind-cold", "dind-cache-from", "buildah"),
)
#: The caches that BuildKit writes as gzip unless it is told to, as zstd; of the axis compression.
VARIANTS = ("buildkit-inline-zstd", "buildkit-local-zstd")
#: Fresh pods that read a cache from the other end of the network.
REMOTE = (
    *(name for name in PEERS if name.startswith("buildkit-") and name != COLD),
    *("kaniko", "dind-cache-from", "buildah"),
)
#: Builders whose caches stay on a node.
KEPT = (WARM, "dind-kept")

SCENARIOS = ("python", "go", "node", "java", "monorepo", "manyfiles")
#: Whose Dockerfiles are one: there is nothing to mount.
MOUNTLESS = ("manyfiles",)
#: Pods at once, of those peers that are compared in crowds. All begin at one moment: without a head
#: start, sixteen sidecars on two processors would only show how long they take to start there.
CROWDS = (1, 4, 16)
IN_CROWDS = (HEAD_START, "buildkit-registry-zstd")
#: Of the cells that every peer takes part in.
BASE_CHANGE, BASE_NETWORK = "line", "1gbit-1ms"


def taking_part(scenario: str) -> tuple[str, ...]:
    """Return the peers of a base cell: what differs in cache mounts alone needs some."""
    without = (PLAIN, DANCE) if scenario in MOUNTLESS else ()
    return tuple(peer for peer in PEERS if peer not in without)


def crowd_of(peer: str, pods: int) -> str:
    """Return what so many pods of a peer at once are called."""
    return f"{peer}-x{pods}"


def crowd(peer: str) -> tuple[str, int]:
    """Return which peer it is, and of how many pods at once: ``warm`` and 4 of ``warm-x4``."""
    name, times, pods = peer.rpartition("-x")
    return (name, int(pods)) if times and pods.isdecimal() else (peer, 1)


def beside(peer: str, ours: str) -> str:
    """Return what of ``ours`` stands beside a peer: as many pods at once."""
    return ours + peer.removeprefix(crowd(peer)[0])


def in_order(peers: Iterable[str]) -> list[str]:
    """Return each peer once, in the order in which they are shown; unknown ones come last.

    A peer's crowds follow each other, the smaller ones first.
    """
    found = sorted(dict.fromkeys(peers), key=lambda peer: crowd(peer)[1])
    names = ordered((crowd(peer)[0] for peer in found), (*PEERS, *VARIANTS))
    return [peer for name in names for peer in found if crowd(peer)[0] == name]


def ordered(found: Iterable[str], order: Sequence[str]) -> list[str]:
    """Return each name once, by its place in ``order``; others come last, as they were found."""
    names = list(dict.fromkeys(found))
    return [*(name for name in order if name in names), *(n for n in names if n not in order)]
