"""Names stand in one order, whoever else knows them."""

from __future__ import annotations

from perf.comparison.names import (
    COLD,
    HEAD_START,
    NO_START,
    PEERS,
    REMOTE,
    VARIANTS,
    WARM,
    beside,
    crowd,
    in_order,
)
from perf.comparison.peers import table


def test_every_peer_that_is_measured_has_its_place() -> None:
    assert {*PEERS, *VARIANTS} == set(table.PEERS)
    assert len({*PEERS, *VARIANTS}) == len(PEERS) + len(VARIANTS)
    caches = ("registry-zstd", "registry-gzip", "registry-plain", "cache-dance", "inline")
    more = ("local", "s3-zstd", "s3-gzip")
    others = ("kaniko", "dind-cache-from", "buildah")
    assert (*(f"buildkit-{cache}" for cache in (*caches, *more)), *others) == REMOTE


def test_each_peer_once_and_unknown_ones_last() -> None:
    assert in_order(["new", COLD, WARM, NO_START, "new"]) == [NO_START, WARM, COLD, "new"]


def test_crowds() -> None:
    assert crowd("warm-x16") == ("warm", 16)
    assert crowd("warm") == ("warm", 1)
    assert crowd("for-xylophones") == ("for-xylophones", 1)
    assert beside("kaniko-x4", HEAD_START) == "buildsvc-20s-x4"
    assert beside("kaniko", HEAD_START) == HEAD_START
    found = in_order(["warm-x16", "kaniko-x4", "buildsvc-0s-x4", "warm-x4", "buildsvc-0s-x1"])
    assert found == ["buildsvc-0s-x1", "buildsvc-0s-x4", "warm-x4", "warm-x16", "kaniko-x4"]
