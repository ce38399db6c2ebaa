"""Machines on which no build can be served: each is told apart, with what to do about it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.commands import Finished, command
from tests.integration.machines import Machine, machine
from tests.integration.sidecars import Pod

pytestmark = pytest.mark.integration

_NO_USERNS = Path(__file__).parent / "programs" / "no_userns.py"


@pytest_asyncio.fixture
async def spoilt(directory: Path) -> AsyncIterator[Machine]:
    """A machine that is a test's own."""
    async with machine(directory / "disk", "64m") as one:
        yield one


async def refused(here: Machine, *words: str, prefix: tuple[str | Path, ...] = ()) -> Finished:
    """Start a sidecar; it must say all the words, end with 69, and leave nothing running."""
    ended = await command(
        *here.enter, *prefix, sys.executable, "-m", "sidecar", "run", f"--root={here.inside}",
        "--listen=127.0.0.1:0", "--http-listen=off", "--log-format=human",
    )  # fmt: skip
    assert ended.code == 69, ended.err
    for word in ("expected:", "found:", "what to do:", *words):
        assert word in ended.err
    assert "Traceback" not in ended.err
    return ended


async def test_the_machine_is_fit_before_it_is_spoilt(spoilt: Machine) -> None:
    async with spoilt.pod() as pod:
        await pod.ready()
        assert await pod.stop() == 0


async def test_user_namespaces_are_switched_off(spoilt: Machine) -> None:
    await spoilt.shell("echo 0 > /proc/sys/user/max_user_namespaces")
    await refused(spoilt, "switched off", "max_user_namespaces above 0", "raise the sysctl")


async def test_the_limit_of_user_namespaces_is_reached(spoilt: Machine) -> None:
    await spoilt.shell("echo 1 > /proc/sys/user/max_user_namespaces")
    one = ("unshare", "--user", "--map-root-user")
    await refused(spoilt, "the limit of user namespaces is reached", prefix=one)


async def test_seccomp_forbids_user_namespaces(spoilt: Machine) -> None:
    forbidding = (sys.executable, _NO_USERNS)
    ended = await refused(spoilt, "user namespaces may not be made here", prefix=forbidding)
    assert "seccomp and AppArmor unconfined" in ended.err


@pytest.mark.parametrize("kind", ["uid", "gid"])
@pytest.mark.parametrize("how", [": >", "echo somebody:1:60000 >", "rm"])
async def test_no_subordinate_ids(spoilt: Machine, kind: str, how: str) -> None:
    await spoilt.shell(f"{how} /etc/sub{kind}")
    await refused(spoilt, "no subordinate ids", f"/etc/sub{kind}", ":100000:65536")


@pytest.mark.parametrize("kind", ["uid", "gid"])
async def test_subordinate_ids_that_a_pods_namespace_has_not(spoilt: Machine, kind: str) -> None:
    """As in a pod with a user namespace of its own and an image made for one without."""
    await spoilt.shell(f"echo root:100000:65536 > /etc/sub{kind}")
    await refused(spoilt, "are not there in the user namespace", f"/proc/self/{kind}_map")


async def test_newuidmap_without_its_rights(spoilt: Machine) -> None:
    """As with allowPrivilegeEscalation: false, where a setuid program gives nobody anything."""
    powerless = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
    await refused(spoilt, "may not write the id maps", prefix=powerless)


async def test_a_namespace_that_is_killed_while_it_is_made(directory: Path) -> None:
    """Such as for want of memory. It is made once more, and not again and again."""
    deaths = directory / "deaths"
    fake = directory / "rootlesskit"
    fake.write_text(f'#!/bin/sh\nmkdir {deaths}/1 && kill -9 $$\nexec rootlesskit "$@"\n')
    fake.chmod(0o755)
    deaths.mkdir()
    async with Pod(directory / "root", f"--rootlesskit={fake}") as pod:
        await pod.ready()
        assert await pod.stop() == 0
        assert "making the namespace once more" in pod.log
    fake.write_text("#!/bin/sh\nkill -9 $$\n")
    async with Pod(directory / "root", f"--rootlesskit={fake}") as pod:
        assert await pod.ended() == 69
        assert "found: it ended without a message" in pod.log


async def test_what_was_wrong_before_is_not_what_is_wrong_now(spoilt: Machine) -> None:
    """The log of a root is one, over all its sidecars."""
    await spoilt.shell(": > /etc/subuid")
    await refused(spoilt, "no subordinate ids")
    await spoilt.shell("echo root:100000:65536 > /etc/subuid")
    ended = await refused(spoilt, "are not there in the user namespace")
    assert "no subuid" not in ended.err
