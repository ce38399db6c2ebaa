"""The seccomp profile: what rootless BuildKit needs, and not what would reach the node."""

from __future__ import annotations

import json

import manifests
import pytest

#: What a default profile of container runtimes refuses, and the sidecar cannot do without: user,
#: mount and network namespaces, and mounts in them by both interfaces of the kernel.
NEEDED = frozenset(
    {"clone", "clone3", "unshare", "setns", "pivot_root", "chroot", "mount", "umount2"}
    | {"fsopen", "fsconfig", "fsmount", "move_mount", "open_tree", "mount_setattr"}
    | {"sethostname", "setdomainname", "keyctl", "mknodat", "seccomp", "prctl"}
)
#: What reaches the kernel or the node, whatever namespace the caller is in, or has no use here and
#: a history of holes.
NEVER = frozenset(
    {"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"}
    | {"swapon", "swapoff", "settimeofday", "clock_settime", "clock_adjtime", "iopl", "ioperm"}
    | {"bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter"}
    | {"open_by_handle_at", "syslog", "acct", "quotactl", "add_key", "request_key"}
)


@pytest.fixture(scope="module")
def profile() -> dict[str, object]:
    found: dict[str, object] = json.loads((manifests.DEPLOY / "seccomp/buildsvc.json").read_text())
    return found


def rules(profile: dict[str, object]) -> list[dict[str, list[str]]]:
    found = profile["syscalls"]
    assert isinstance(found, list)
    return found


def test_what_is_not_named_is_refused(profile: dict[str, object]) -> None:
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {str(rule["action"]) for rule in rules(profile)} == {"SCMP_ACT_ALLOW"}


def test_what_is_needed_and_what_is_never(profile: dict[str, object]) -> None:
    names = {name for rule in rules(profile) for name in rule["names"]}
    assert names >= NEEDED
    assert not names & NEVER


def test_each_is_named_once(profile: dict[str, object]) -> None:
    names = [name for rule in rules(profile) if "args" not in rule for name in rule["names"]]
    assert len(set(names)) == len(names)
    conditional = {name for rule in rules(profile) if "args" in rule for name in rule["names"]}
    assert conditional == {"personality", "socket"}
    assert not conditional & set(names)


def test_both_architectures_of_the_images(profile: dict[str, object]) -> None:
    architectures = profile["architectures"]
    assert isinstance(architectures, list)
    assert {"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"} <= set(architectures)
