"""What cache mounts are called, and which of them a setting means."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildsvc.cache.records import CACHE_MOUNT, Record, mount_names
from sidecar.cachemounts import ALL, excluded, not_restored
from sidecar.databases import Records
from sidecar.settings import Settings


@pytest.mark.parametrize(
    ("key", "description", "expected"),
    [
        ("//root/.cache/pip", "cached mount /root/.cache/pip from exec sh", ("/root/.cache/pip",)),
        ("/pip", "cached mount /root/.cache/pip/ from exec sh", ("/root/.cache/pip", "pip")),
        # It began as the content of a layer, or has options: the layer's record is part of its key.
        ("//m2:abc1", "cached mount /m2 from exec a from b", ("/m2", "/m2:abc1")),
        # BUILDKIT_CACHE_MOUNT_NS
        ("ns//root/x", "cached mount /y from exec", ("/y", "/root/x")),
        ("ns/pip", "something else", ("pip",)),
        ("", "", ()),
    ],
)
def test_what_a_dockerfile_calls_a_mount(
    key: str, description: str, expected: tuple[str, ...]
) -> None:
    record = Record("id", "own", CACHE_MOUNT, description, "", [], key)
    assert mount_names(record) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", {"1": "/root/.m2", "2": "/apt", "3": ""}),
        ("/root/*", {"1": "/root/.m2"}),
        ("maven", {"1": "/root/.m2"}),
        ("/root", {}),
        ("MAVEN", {}),
    ],
)
def test_patterns(pattern: str, expected: dict[str, str]) -> None:
    records = Records({}, {"1": ("/root/.m2", "maven"), "2": ("/apt",), "3": ()})
    assert excluded(records, ["/other", pattern]) == expected


def settings(**values: object) -> Settings:
    return Settings.read({"root": Path("/r"), **values})


def test_patterns_hold_for_all_domains_and_may_end_in_a_slash() -> None:
    own = settings(exclude_mount=["/root/.m2/", "/"], read_domain=["a"])
    assert not_restored(own, "default") == ("/root/.m2", "/")
    assert not_restored(own, "a") == ALL
    everything = settings(exclude_mount="x,y", read_domain=["a"], fork_reads="all")
    assert not_restored(everything, "a") == ("x", "y")
