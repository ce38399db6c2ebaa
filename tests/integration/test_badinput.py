"""What cannot work is refused with an exit code and a text that says what to do."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from sidecar.versions import BUILDKIT_VERSION
from tests.integration.commands import Finished, sidecar
from tests.integration.contexts import BASE, context
from tests.integration.sidecars import Pod, pod

pytestmark = pytest.mark.integration


async def run(directory: Path, *flags: str, path: str | None = None) -> Finished:
    """Start a sidecar that is expected to end by itself."""
    usual = {"root": directory / "root", "listen": "127.0.0.1:0", "http-listen": "off"}
    given = [flag.split("=")[0] for flag in flags]
    missing = [f"--{name}={value}" for name, value in usual.items() if f"--{name}" not in given]
    env = {"PATH": path} if path else None
    return await sidecar("run", "--log-format=human", *missing, *flags, env=env)


async def test_a_taken_port(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = await run(directory, f"--listen=127.0.0.1:{port}")
    assert ended.code == 69
    assert f"cannot listen on 127.0.0.1:{port}" in ended.err
    assert "another process listens there" in ended.err


@pytest.mark.parametrize("program", ["buildkitd", "runc", "rootlesskit"])
async def test_a_missing_program(program: str, directory: Path) -> None:
    ended = await run(directory, f"--{program}=no-such-{program}")
    assert ended.code == 69
    assert f"{program} cannot be run" in ended.err
    assert f"no-such-{program}" in ended.err
    assert "what to do:" in ended.err


async def test_a_daemon_that_says_no_version(directory: Path) -> None:
    ended = await run(directory, "--buildkitd=/bin/echo", f"--store={directory / 'store'}")
    assert ended.code == 69
    assert "does not say its version" in ended.err


async def test_another_program_without_a_store(directory: Path) -> None:
    """Nobody asks for the version then before the daemon is seen not to start."""
    ended = await run(directory, "--buildkitd=/bin/echo")
    assert ended.code == 69
    assert "/bin/echo does not say its version" in ended.err
    assert "--buildkitd" in ended.err


async def test_a_daemon_that_ends_at_once(directory: Path) -> None:
    fake = directory / "buildkitd"
    fake.write_text("#!/bin/sh\necho buildkitd github.com/moby/buildkit v0.12.0 abc\n")
    fake.chmod(0o755)
    ended = await run(directory, f"--buildkitd={fake}")
    assert ended.code == 69
    assert "buildkitd does not start on an empty root" in ended.err
    assert f"expected: buildkitd {BUILDKIT_VERSION}" in ended.err
    assert f"found: {fake}, which says that it is v0.12.0" in ended.err
    assert "daemon.log" in ended.err


async def test_a_machine_without_newuidmap(directory: Path) -> None:
    """Nobody maps the subordinate uids then: as on a machine without user namespaces."""
    programs = directory / "bin"
    programs.mkdir()
    for name in ("buildkitd", "runc", "rootlesskit", "slirp4netns", "ip", "mount", "nice", "sh"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    ended = await run(directory, path=str(programs))
    assert ended.code == 69
    assert "newuidmap" in ended.err


async def test_a_root_that_cannot_be_written(directory: Path) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o555)
    ended = await run(directory, f"--root={closed / 'root'}")
    assert ended.code == 73
    assert str(closed / "root") in ended.err
    assert "Permission denied" in ended.err


async def test_a_root_that_is_a_file(directory: Path) -> None:
    (directory / "file").write_text("")
    ended = await run(directory, f"--root={directory / 'file'}")
    assert ended.code == 73
    assert "what to do:" in ended.err


async def test_a_role_that_run_steps_on_the_hosts_network_could_take(directory: Path) -> None:
    store = "--store=oss://bucket/cache?region=cn-hangzhou&credentials=ecs"
    ended = await run(directory, store, "--network=host")
    assert ended.code == 78
    assert "RUN steps of a build could take the role" in ended.err
    assert "--allow-instance-role" in ended.err


async def test_a_store_that_is_a_file_starts_cold(directory: Path) -> None:
    (directory / "file").write_text("mine")
    place = context(directory / "context", BASE + "RUN echo hello > /hello\n")
    async with pod(directory / "root", f"--store={directory / 'file'}") as one:
        assert (await one.status())["by"]["cold_starts"] == {"store-unavailable": 1}
        await one.build(place)
        assert await one.stop() == 0
        assert "is not a store" in one.log
    assert (directory / "file").read_text() == "mine"


async def test_two_sidecars_on_one_root(directory: Path) -> None:
    async with Pod(directory / "root") as one:
        await one.ready()
        ended = await run(directory)
        assert ended.code == 75
        assert "another sidecar works in" in ended.err
        assert (await one.status())["ready"]


async def test_wrong_settings_are_told_all_at_once(directory: Path) -> None:
    config = directory / "sidecar.yaml"
    config.write_text("demand_timeout: 90s\nno_such_thing: 1\n")
    ended = await run(
        directory,
        f"--config={config}",
        "--unpack-workers=777",
        "--deny-cidr=10.0.0.0/99",
        "--publish=maybe",
    )
    assert ended.code == 78
    for word in ("demand_timeout", "no_such_thing", "unpack-workers", "deny-cidr", "publish"):
        assert word in ended.err or word.replace("-", "_") in ended.err
    assert not (directory / "root").exists()


async def test_an_unknown_flag(directory: Path) -> None:
    ended = await run(directory, "--no-such-flag=1")
    assert ended.code == 64
    assert "--no-such-flag" in ended.err


async def test_a_store_of_no_known_kind(directory: Path) -> None:
    ended = await run(directory, "--store=ftp://example.org/cache")
    assert ended.code == 78
    assert "ftp://example.org/cache" in ended.err


async def test_a_daemon_config_that_contradicts(directory: Path) -> None:
    config = directory / "buildkitd.toml"
    config.write_text('root = "/elsewhere"\n')
    ended = await run(directory, f"--buildkitd-config={config}")
    assert ended.code == 78
    assert str(config) in ended.err
    assert "/elsewhere" in ended.err


async def test_plain_tcp_where_steps_reach_it(directory: Path) -> None:
    ended = await run(directory, "--network=host", "--tls=off")
    assert ended.code == 78
    assert "--allow-reachable-endpoint" in ended.err


async def test_a_command_without_a_sidecar(directory: Path) -> None:
    for name in ("status", "checkpoint"):
        ended = await sidecar(name, f"--root={directory / 'root'}")
        assert ended.code == 69
        assert "no sidecar answers" in ended.err
