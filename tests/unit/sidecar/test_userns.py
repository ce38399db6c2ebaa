from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import EnvironmentUnfit
from sidecar import userns
from sidecar.userns import EndedEarly

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "error: failed to setup UID/GID map: No subuid ranges found for user 1000",
            "no subordinate ids",
        ),
        (
            "failed to start the child: fork/exec /proc/self/exe: operation not permitted",
            "may not be made here",
        ),
        (
            "failed to start the child: fork/exec /proc/self/exe: no space left on device",
            "limit of user namespaces",
        ),
        ("guard: addresses to deny: [Errno 17] cannot deny 10.0.2.0/24", "--deny-cidr"),
    ],
)
def test_what_rootlesskit_says_is_explained(log: str, message: str) -> None:
    warning = 'time="2026-11-21T17:23:39Z" level=warning msg="unsupported"'
    error = userns.explain(f"{warning}\n{log}")
    assert type(error) is EnvironmentUnfit
    for words in (message, f"found: {log}", "expected: ", "what to do: "):
        assert words in str(error)
    assert "unsupported" not in str(error)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "failed to setup UID/GID map: newuidmap 42 [0 1000 1] failed: exit status 1",
            "may not write the id maps",
        ),
        (
            'waiting for ready fd (slirp4netns): open("/dev/net/tun"): No such file or directory',
            "could not be connected",
        ),
        ("nsenter: cannot open /proc/42/ns/user: Permission denied\nfailed to setup network", "42"),
    ],
)
def test_what_the_death_of_rootlesskits_child_looks_like_may_be_tried_again(
    log: str, message: str
) -> None:
    error = userns.explain(log)
    assert type(error) is EndedEarly
    for words in (message, f"found: {log}", "expected: ", "what to do: "):
        assert words in str(error)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("something nobody foresaw", "something nobody foresaw"),
        ("", "without a message"),
        ('level=warning msg="slirp4netns has no seccomp"', "without a message"),
    ],
)
def test_an_end_that_nobody_explains_may_be_tried_again(log: str, message: str) -> None:
    error = userns.explain(log)
    assert type(error) is EndedEarly
    assert message in str(error)


def test_ids_that_do_not_exist_here_are_told_from_missing_rights() -> None:
    log = "newuidmap 42 [0 0 1 1 4294967000 65536] failed: newuidmap: write to uid_map failed"
    assert "/proc/self/uid_map" in str(userns.explain(log))


def program(directory: Path, name: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n")
    (directory / name).chmod(0o755)


def test_missing_programs_are_named_before_anything_starts(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path / "bin")}
    with pytest.raises(EnvironmentUnfit, match="rootlesskit is not there"):
        userns.check("rootlesskit", environment, "host")
    program(tmp_path / "bin", "rootlesskit")
    with pytest.raises(EnvironmentUnfit, match=r"newuidmap is not on PATH.*install"):
        userns.check("rootlesskit", environment, "host")


def test_own_network_needs_slirp4netns(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path / "bin")}
    for name in ("rootlesskit", "newuidmap", "newgidmap", "getsubids"):
        program(tmp_path / "bin", name)
    found = userns.network_mode(environment)
    assert (found.mode, found.reason) == ("host", "slirp4netns is not on PATH")
    userns.check("rootlesskit", environment, "host")
    with pytest.raises(EnvironmentUnfit, match="slirp4netns is not on PATH"):
        userns.check("rootlesskit", environment, "own")


def test_a_user_without_subordinate_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"PATH": str(tmp_path / "bin")}
    for name in ("rootlesskit", "newuidmap", "newgidmap"):
        program(tmp_path / "bin", name)
    # daemon is a user of every Linux, and nobody gives it ranges.
    monkeypatch.setattr(os, "getuid", lambda: 1)
    with pytest.raises(EnvironmentUnfit, match=r"user \w+ has no subordinate ids.*:100000:65536"):
        userns.check("rootlesskit", environment, "host")


def test_our_own_namespace_is_never_killed() -> None:
    namespace = userns.namespace_of(os.getpid())
    try:
        with pytest.raises(ValueError, match="our own"):
            userns.kill_all(namespace)
    finally:
        os.close(namespace)
