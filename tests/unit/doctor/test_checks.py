"""Each check on a made-up place: what it sees, and what it says to change."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildsvc.doctor import namespaces, network, programs, resources
from buildsvc.doctor.examine import KINDS, kinds_of
from buildsvc.doctor.finding import Finding
from buildsvc.doctor.place import Place
from buildsvc.doctor.trials import NO_IDS, Trials
from buildsvc.store.local import LocalStore

#: What a place shows in which everything works, a container of the kind unconfined.
FILES = {
    "/proc/self/status": "Name:\tx\nNoNewPrivs:\t0\nSeccomp:\t0\nCapBnd:\t00000000000000c0\n",
    "/proc/self/uid_map": "0 0 4294967295\n",
    "/proc/self/gid_map": "0 0 4294967295\n",
    "/proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda rw\n",
    "/proc/sys/fs/lease-break-time": "45\n",
    "/etc/subuid": "other:1:2\nbuild:100000:65536\n",
    "/etc/subgid": "1000:200000:65536\n",
}
WORKS = Trials(
    {"user": "", "mounts": "", "overlay": "", "network": "", "proc": "Operation not permitted"},
    ids="",
    lease="",
    tun="No such file or directory",
)

Make = Callable[..., Place]


@pytest.fixture
def place(tmp_path: Path) -> Make:
    """Make a place; files by path, and changes of its fields."""

    def made(files: dict[str, str] | None = None, **changes: Any) -> Place:
        for path, text in (FILES | (files or {})).items():
            file = tmp_path / "files" / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        empty = Place(
            files=tmp_path / "files", environ={"PATH": str(tmp_path / "bin")}, uid=1000,
            user="build", release="6.1.0-27-amd64", data=tmp_path,
        )  # fmt: skip
        return replace(empty, **changes)

    return made


def program(directory: Path, name: str, says: str = "", code: int = 0) -> None:
    directory.mkdir(exist_ok=True)
    file = directory / name
    file.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    file.chmod(0o755)


def is_(finding: Finding, state: str, *words: str) -> None:
    assert finding.state == state, finding
    for word in words:
        assert word in f"{finding.seen} {finding.advice}", finding
    assert finding.advice or state != "fail"


@pytest.mark.parametrize(
    ("release", "state"), [("5.10.0-30", "fail"), ("5.11.0", "ok"), ("6.1.0", "ok"), ("x", "fail")]
)
def test_kernel(place: Make, release: str, state: str) -> None:
    is_(namespaces.kernel(place(release=release), WORKS), state, release)


def test_user(place: Make) -> None:
    is_(namespaces.user(place(), WORKS), "ok", "build")
    is_(namespaces.user(place(uid=0, user="root"), WORKS), "warn", "runAsUser: 1000")
    is_(namespaces.user(place(user=""), WORKS), "fail", "/etc/passwd")


NO_NAMESPACE = replace(WORKS, inside={"user": "Operation not permitted"}, ids=None)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["Operation not permitted", "cluster.kind unconfined", "seccompProfile"]),
        (
            {"/proc/sys/user/max_user_namespaces": "0\n"},
            ["sysctl user.max_user_namespaces", "15000"],
        ),
        ({"/proc/sys/kernel/unprivileged_userns_clone": "0\n"}, ["unprivileged_userns_clone"]),
        (
            {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"},
            ["kernel.apparmor_restrict_unprivileged_userns is 1; set it to 0"],
        ),
    ],
)
def test_user_namespaces(place: Make, files: dict[str, str], words: list[str]) -> None:
    is_(namespaces.user_namespaces(place(files), NO_NAMESPACE), "fail", *words)
    is_(namespaces.user_namespaces(place(files), WORKS), "ok")


def test_a_trial_that_was_killed(place: Make) -> None:
    killed = replace(NO_NAMESPACE, inside={})
    is_(namespaces.user_namespaces(place(), killed), "fail", "was killed")


INSIDE = {
    "/proc/self/uid_map": "0 524288 65536\n",
    "/proc/self/gid_map": "0 524288 65536\n",
}


def test_host_users(place: Make) -> None:
    is_(namespaces.host_users(place(), WORKS), "ok", "hostUsers: true")
    is_(namespaces.host_users(place(INSIDE), WORKS), "ok", "0 to 65535")


def test_subordinate_ids(place: Make) -> None:
    is_(namespaces.subordinate_ids(place(), WORKS), "ok", "65536 ids from 100000")
    is_(namespaces.subordinate_ids(place(INSIDE), WORKS), "fail", "build:1001:60000", "uid_map")
    few = {"/etc/subuid": "build:1001:1000\n", "/etc/subgid": "build:1001:60000\n"}
    is_(namespaces.subordinate_ids(place(few), WORKS), "warn", "1000 ids")
    fit = dict.fromkeys(few, "build:1001:60000\n")
    is_(namespaces.subordinate_ids(place(INSIDE | fit), WORKS), "ok", "60000")
    none = {"/etc/subgid": "other:1:2\nbad line\n"}
    is_(namespaces.subordinate_ids(place(none), WORKS), "fail", "no subgids", "build:100000:65536")


def test_subordinate_ids_of_getsubids(place: Make, tmp_path: Path) -> None:
    program(tmp_path / "bin", "getsubids", "0: build 1001 60000")
    is_(namespaces.subordinate_ids(place(INSIDE), WORKS), "ok", "60000 ids from 1001")
    program(tmp_path / "bin", "getsubids", "Error fetching ranges", code=1)
    is_(namespaces.subordinate_ids(place(INSIDE), WORKS), "fail", "no subuids")


def status(**fields: str) -> dict[str, str]:
    return {"/proc/self/status": "".join(f"{name}:\t{value}\n" for name, value in fields.items())}


@pytest.mark.parametrize(
    ("fields", "ids", "words"),
    [
        ({"NoNewPrivs": "1"}, "x", ["allowPrivilegeEscalation: true"]),
        ({"CapBnd": "0000000000000000"}, "x", ["add: [SETUID, SETGID]"]),
        ({"CapBnd": "0000000000000080"}, "x", ["bounding set"]),
        ({"CapBnd": "00000000000000c0"}, "newuidmap: write failed", ["newuidmap: write", "setcap"]),
        ({}, None, ["not tried"]),
        ({}, NO_IDS, ["not tried", "no subordinate ids"]),
    ],
)
def test_id_mapping(place: Make, fields: dict[str, str], ids: str | None, words: list[str]) -> None:
    found = place(status(**fields))
    is_(namespaces.id_mapping(found, replace(WORKS, ids=ids)), "fail", *words)
    # What really works is not in doubt.
    is_(namespaces.id_mapping(found, WORKS), "ok")


def test_seccomp(place: Make) -> None:
    is_(namespaces.seccomp(place(), NO_NAMESPACE), "ok", "no filter")
    filtered = place(status(Seccomp="2"))
    is_(namespaces.seccomp(filtered, WORKS), "ok", "a filter")
    is_(namespaces.seccomp(filtered, NO_NAMESPACE), "fail", "localhost", "deploy/seccomp")


def test_security_module(place: Make) -> None:
    label = {"/proc/self/attr/apparmor/current": "cri-containerd.apparmor.d (enforce)\n"}
    no_mounts = replace(WORKS, inside={**WORKS.inside, "overlay": "Permission denied"})
    is_(namespaces.security_module(place(), no_mounts), "ok", "no label")
    is_(namespaces.security_module(place(label), WORKS), "ok", "cri-containerd")
    is_(namespaces.security_module(place(label), no_mounts), "fail", "appArmorProfile")
    free = {"/proc/self/attr/apparmor/current": "unconfined\n"}
    is_(namespaces.security_module(place(free), no_mounts), "ok", "unconfined")


def test_overlay(place: Make) -> None:
    is_(namespaces.overlay(place(), WORKS), "ok")
    fails = replace(WORKS, inside={**WORKS.inside, "overlay": "Invalid argument"})
    is_(namespaces.overlay(place(), fails), "fail", "Invalid argument", "emptyDir")
    is_(namespaces.overlay(place(), NO_NAMESPACE), "fail", "not tried")


def test_process_sandbox(place: Make) -> None:
    own = replace(WORKS, inside={**WORKS.inside, "proc": ""})
    on = {"BUILDSVC_PROCESS_SANDBOX": "on"}
    is_(namespaces.process_sandbox(place(), own), "ok", "can be on")
    assert not namespaces.process_sandbox(place(environ=on), own).advice
    is_(namespaces.process_sandbox(place(), WORKS), "warn", "procMount: Unmasked", "userns")
    is_(namespaces.process_sandbox(place(environ=on), WORKS), "fail", "--process-sandbox off")


def test_tun(place: Make, tmp_path: Path) -> None:
    opens = replace(WORKS, tun="")
    is_(namespaces.tun(place(), WORKS), "warn", "cluster.kind tun", "TLS")
    is_(namespaces.tun(place(), opens), "warn", "slirp4netns, ip not on PATH")
    for name in ("slirp4netns", "ip"):
        program(tmp_path / "bin", name)
    is_(namespaces.tun(place(), opens), "ok")
    wanted = {"BUILDSVC_NETWORK": "slirp4netns", "PATH": str(tmp_path / "bin")}
    is_(namespaces.tun(place(environ=wanted), WORKS), "fail", "--network wants it")


class Disk:
    """What statvfs answers."""

    f_frsize = 1

    def __init__(self, free: int) -> None:
        self.f_bavail = free
        self.f_blocks = 1 << 40


@pytest.mark.parametrize(
    ("disk", "state", "words"),
    [
        ((1 << 20, "ext4"), "fail", ["sizeLimit"]),
        ((1 << 30, "ext4"), "warn", ["1.0 GiB of 1024.0 GiB", "sizeLimit"]),
        ((20 << 30, "ext4"), "ok", ["ext4"]),
        ((20 << 30, "overlay"), "warn", ["emptyDir at BUILDSVC_ROOT"]),
        ((20 << 30, "tmpfs"), "warn", ["counts as memory"]),
    ],
)
def test_disk(
    place: Make,
    monkeypatch: pytest.MonkeyPatch,
    disk: tuple[int, str],
    state: str,
    words: list[str],
) -> None:
    free, kind = disk
    mounts = f"1 0 8:1 / / rw - xfs /dev/sda rw\n2 1 0:9 / /tmp rw shared:1 - {kind} x rw\n"
    monkeypatch.setattr(os, "statvfs", lambda _: Disk(free))
    monkeypatch.setattr(os, "access", lambda *_: True)
    found = place({"/proc/self/mountinfo": mounts}, data=Path("/tmp/no/such"))
    is_(resources.disk(found, WORKS), state, *words)


def test_a_disk_that_is_not_ours(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    is_(resources.disk(place(), WORKS), "fail", "fsGroup: 1000")


def test_leases(place: Make) -> None:
    is_(resources.leases(place(), WORKS), "ok", "45 s")
    is_(resources.leases(place(), replace(WORKS, lease="Invalid argument")), "warn", "Invalid")
    is_(resources.leases(place({"/proc/sys/fs/lease-break-time": "10\n"}), WORKS), "warn", "=45")


V2 = "/sys/fs/cgroup/memory.max"
V1 = "/sys/fs/cgroup/memory/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("files", "state", "words"),
    [
        ({}, "ok", "no limit"),
        ({V2: "max\n"}, "ok", "no limit"),
        ({V1: "9223372036854771712\n"}, "ok", "no limit"),
        ({V2: str(256 << 20)}, "fail", "resources.limits.memory"),
        ({V1: str(1 << 30)}, "warn", "1.0 GiB"),
        ({V2: str(8 << 30)}, "ok", "8.0 GiB"),
    ],
)
def test_memory(place: Make, files: dict[str, str], state: str, words: str) -> None:
    is_(resources.memory(place(files), WORKS), state, words)


QUOTA, PERIOD = (f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us" for name in ("quota", "period"))


@pytest.mark.parametrize(
    ("files", "state", "words"),
    [
        ({}, "ok", "no limit"),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, "ok", "no limit"),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, "warn", "a limit of 0.5"),
        ({QUOTA: "-1", PERIOD: "100000"}, "ok", "no limit"),
        ({QUOTA: "200000", PERIOD: "100000"}, "ok", "a limit of 2 of"),
    ],
)
def test_processors(place: Make, files: dict[str, str], state: str, words: str) -> None:
    is_(resources.processors(place(files), WORKS), state, words)


@pytest.mark.parametrize(
    ("hard", "state"), [(resource.RLIM_INFINITY, "ok"), (65536, "ok"), (4096, "warn")]
)
def test_open_files(place: Make, monkeypatch: pytest.MonkeyPatch, hard: int, state: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    is_(resources.open_files(place(), WORKS), state)


def test_endpoint(place: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        used = place(environ={"BUILDSVC_LISTEN": address})
        is_(network.endpoint(used, WORKS), "warn", "in use: by the sidecar")
    is_(network.endpoint(used, WORKS), "ok", "free")
    for wrong in ("x", "127.0.0.1:99999", "192.0.2.1:1234"):
        is_(network.endpoint(place(environ={"BUILDSVC_LISTEN": wrong}), WORKS), "fail", "--listen")


def test_metadata(place: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = {"169.254.169.254": server.getsockname()[:2]}
        monkeypatch.setattr(network, "METADATA", near)
        is_(network.metadata(place(), WORKS), "warn", "169.254.169.254", "NetworkPolicy")
        program(tmp_path / "bin", "slirp4netns")
        is_(network.metadata(place(), WORKS), "warn")
        is_(network.metadata(place(), replace(WORKS, tun="")), "ok", "without it")
    is_(network.metadata(place(), WORKS), "ok", "not reachable")


def test_store(place: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_(network.store(place(environ={}), WORKS), "warn", "no cache")
    good = place(environ={"BUILDSVC_STORE": str(tmp_path / "store")})
    is_(network.store(good, WORKS), "ok", "answers")
    is_(network.store(place(environ={"BUILDSVC_STORE": "ftp://x"}), WORKS), "fail", "ftp")
    away = "http://127.0.0.1:1/x"
    is_(network.store(place(environ={"BUILDSVC_STORE": away}), WORKS), "warn", "store check")

    def stuck(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(LocalStore, "list", stuck)
    is_(network.store(good, WORKS), "warn", "no answer in 15 s")


def test_programs(place: Make, tmp_path: Path) -> None:
    is_(programs.programs(place(), WORKS), "fail", "buildkitd, rootlesskit, runc", "--tools-dir")
    for name in programs.NEEDED:
        program(tmp_path / "bin", name, f"{name} github.com/x v1.2.3 abc")
    is_(
        programs.programs(place(), WORKS), "ok", "buildkitd v1.2.3; rootlesskit v1.2.3; runc v1.2.3"
    )
    program(tmp_path / "bin", "runc", code=1)
    is_(programs.programs(place(), WORKS), "fail", "cannot be run: runc")
    program(tmp_path / "bin", "runc", "no number")
    is_(programs.programs(place(), WORKS), "ok", "unknown version")
    (tmp_path / "bin" / "buildkitd").write_text("not a program")
    is_(programs.programs(place(), WORKS), "fail", "cannot be run: buildkitd")


def test_programs_are_found_where_the_sidecar_finds_them(place: Make, tmp_path: Path) -> None:
    program(tmp_path / "tools", "mykitd", "v9")
    named = {"BUILDSVC_BUILDKITD": "mykitd", "BUILDSVC_TOOLS_DIR": str(tmp_path / "tools")}
    assert place(environ=named).program("buildkitd") == str(tmp_path / "tools" / "mykitd")


def test_kinds(place: Make) -> None:
    own_proc = replace(WORKS, inside={**WORKS.inside, "proc": ""})
    assert kinds_of(place(), WORKS) == ("unconfined",)
    assert kinds_of(place(), own_proc) == ("unconfined",)
    assert kinds_of(place(), replace(WORKS, tun="")) == ("tun", "unconfined")
    assert kinds_of(place(), replace(WORKS, ids="failed")) == ()
    assert kinds_of(place(), NO_NAMESPACE) == ()
    filtered = FILES["/proc/self/status"].replace("Seccomp:\t0", "Seccomp:\t2")
    assert kinds_of(place({"/proc/self/status": filtered}), WORKS) == ("localhost",)
    inside = INSIDE | {"/proc/self/status": FILES["/proc/self/status"]}
    assert kinds_of(place(inside), own_proc) == ("userns", "unconfined")
    assert kinds_of(place(inside), WORKS) == ("unconfined",)
    assert set(KINDS) == {"tun", "userns", "localhost", "unconfined"}
