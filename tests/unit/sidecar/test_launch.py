"""What goes into the user namespace: command lines, environment, configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from buildsvc.errors import ConfigError
from sidecar.commands import agent_command
from sidecar.environment import allowed
from sidecar.launch import Launch
from sidecar.paths import EpochPaths
from sidecar.settings import Settings


def settings(tmp_path: Path, **values: object) -> Settings:
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("buildkitd", "runc", "rootlesskit"):
        (programs / name).touch(0o755)
    return Settings.read({"root": tmp_path / "root", "tools_dir": programs, **values})


def test_nothing_is_passed_that_is_not_named() -> None:
    environ = {
        "PATH": "/bin",
        "HOME": "/home/b",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "BUILDSVC_STORE": "http://user:s3cret@host",
        "LD_PRELOAD": "/evil.so",
        "http_proxy": "http://proxy:3128",
        "HTTPS_PROXY": "http://user:s3cret@proxy:3128",
        "NO_PROXY": "localhost",
    }
    assert allowed(environ) == {
        "PATH": "/bin",
        "HOME": "/home/b",
        "http_proxy": "http://proxy:3128",
        "NO_PROXY": "localhost",
    }


def test_the_commands_name_the_epochs_own_paths(tmp_path: Path) -> None:
    chosen = settings(tmp_path, unpack_workers=3)
    launch = Launch(chosen, {"PATH": "/bin"}, None)
    paths = EpochPaths(tmp_path / "epoch-7")
    agent, daemon = agent_command(chosen, launch.environment, paths), launch.daemon(paths)
    assert agent.argv[1:3] == ("-m", "sidecar.agent")
    assert f"--buildkit-root={paths.buildkit}" in agent.argv
    assert "--workers=3" in agent.argv
    assert daemon.argv == (str(tmp_path / "bin/buildkitd"), f"--config={paths.buildkit_config}")
    assert agent.environment == daemon.environment == {"PATH": "/bin"}


def test_the_configuration_is_ours_merged_with_the_users(tmp_path: Path) -> None:
    users = tmp_path / "user.toml"
    users.write_text('[registry."localhost:5000"]\nhttp = true\n')
    launch = Launch(settings(tmp_path, buildkitd_config=users, max_used_space=5_000_000), {}, None)
    paths = EpochPaths(tmp_path / "epoch-1")
    paths.make()
    launch.write_config(paths)
    written = tomllib.loads(paths.buildkit_config.read_text())
    assert written["registry"]["localhost:5000"]["http"] is True
    assert written["root"] == str(paths.buildkit)
    assert launch.max_used_space == 5_000_000


def test_a_contradiction_is_an_error(tmp_path: Path) -> None:
    users = tmp_path / "user.toml"
    users.write_text('root = "/elsewhere"\n')
    launch = Launch(settings(tmp_path, buildkitd_config=users), {}, None)
    paths = EpochPaths(tmp_path / "epoch-1")
    paths.make()
    with pytest.raises(ConfigError, match="elsewhere"):
        launch.write_config(paths)
