"""Settings: sources and their order, values, and errors that come all at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildsvc.errors import ConfigError, EnvironmentUnfit
from buildsvc.setting import flag_name
from buildsvc.values import duration_text, parse_duration, parse_size, size_text
from sidecar.settings import SETTINGS, Settings
from sidecar.sources import load_settings


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    return load_settings(flags or {}, {"XDG_DATA_HOME": "/data", **(environ or {})}, config)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_defaults() -> None:
    settings = load()
    assert settings.root == Path("/data/buildsvc")
    assert settings.endpoint_path == Path("/data/buildsvc/endpoint.json")
    assert settings.tls_client_path == Path("/data/buildsvc/tls/client")
    assert (settings.grace, settings.demand_timeout) == (600.0, 20.0)
    assert settings.staging_limit == 512 << 20
    assert settings.nofsync is True
    assert settings.process_sandbox is False
    assert settings.store == ""
    assert settings.max_used_space is None
    assert settings.origin("grace") == "default"


def test_a_relative_xdg_directory_is_ignored() -> None:
    found = load_settings({}, {"XDG_DATA_HOME": "rel"})
    assert found.root == Path.home() / ".local" / "share" / "buildsvc"


def test_a_flag_wins_over_the_environment_over_the_file(config: Path) -> None:
    config.write_text("grace: 1m\ntenant: file\ncache_key: file\n")
    environ = {"BUILDSVC_TENANT": "env", "BUILDSVC_CACHE_KEY": "env"}
    settings = load({"cache_key": "flag"}, environ, config)
    assert (settings.grace, settings.tenant, settings.cache_key) == (60.0, "env", "flag")
    assert settings.origin("grace") == f"{config}: grace"
    assert settings.origin("tenant") == "BUILDSVC_TENANT"
    assert settings.origin("cache_key") == "--cache-key"


def test_the_file_may_come_from_the_environment(config: Path) -> None:
    config.write_text("tenant: file\n")
    assert load({}, {"BUILDSVC_CONFIG": str(config)}).tenant == "file"


def test_every_setting_can_be_set_by_every_source(config: Path, tmp_path: Path) -> None:
    written = {
        "root": str(tmp_path),
        "listen": "127.0.0.1:9",
        "endpoint_file": "/e.json",
        "tls": "on",
        "tls_client_dir": "/t",
        "allow_reachable_endpoint": "on",
        "network": "host",
        "deny_cidr": "10.0.0.0/8,fd00::/8",
        "store": "file:///s",
        "allow_instance_role": "on",
        "cache_key": "feature/x",
        "fallback_key": "main,release",
        "tenant": "t",
        "trust_domain": "d",
        "read_domain": "protected,other",
        "fork_reads": "all",
        "exclude_mount": "/root/.m2,npm-*",
        "signing_key": "/keys/signing.pem",
        "verify_key": "t/d=/keys/d,t/forks=/keys/forks.pem",
        "publish": "never",
        "restore": "complete",
        "demand_timeout": "35s",
        "grace": "1h",
        "max_used_space": "20GB",
        "buildkitd_config": "/b.toml",
        "buildkitd": "bk",
        "runc": "crun",
        "rootlesskit": "/rk",
        "tools_dir": "/tools",
        "process_sandbox": "on",
        "nofsync": "off",
        "download_concurrency": "3",
        "unpack_workers": "5",
        "upload_limit": "50MB",
        "staging_limit": "1GiB",
        "http_listen": "off",
        "log_format": "json",
        "log_level": "debug",
    }
    assert written.keys() == SETTINGS.keys(), "a new setting belongs in this list"
    by_flags = load(written)
    by_environ = load({}, {f"BUILDSVC_{name.upper()}": text for name, text in written.items()})
    config.write_text("".join(f"{name}: {text!r}\n" for name, text in written.items()))
    by_file = load(config=config)
    assert by_flags == by_environ == by_file
    assert by_flags.fallback_key == ("main", "release")
    assert by_flags.named({}).cache_key == "feature/x"
    assert by_flags.verify_keys == [
        ("t", "d", Path("/keys/d")),
        ("t", "forks", Path("/keys/forks.pem")),
    ]
    assert by_flags.deny_cidr == ("10.0.0.0/8", "fd00::/8")
    assert by_flags.max_used_space == 20_000_000_000
    defaults = load()
    assert not [name for name in SETTINGS if getattr(by_flags, name) == getattr(defaults, name)]
    shown = {**by_flags.shown()}
    assert load(shown) == by_flags, "what is shown can be read again"


def test_yaml_switches_and_lists_are_understood(config: Path) -> None:
    config.write_text("tls: on\nnofsync: no\nhttp_listen: off\nfallback_key: [a, b]\ngrace:\n")
    settings = load(config=config)
    assert (settings.tls, settings.nofsync, settings.http_address) == ("on", False, None)
    assert settings.fallback_key == ("a", "b")
    assert settings.grace == 600.0


def test_all_errors_come_at_once_each_with_its_origin(config: Path) -> None:
    config.write_text("grcae: 1\ndownload_concurrency: 999\n")
    with pytest.raises(ConfigError) as caught:
        load(
            {"demand_timeout": "36s", "tls": "maybe"},
            {"BUILDSVC_LISTEN": "nowhere", "BUILDSVC_STROE": "x"},
            config,
        )
    lines = str(caught.value).splitlines()
    for part in [
        "--demand-timeout: ",
        "--tls: ",
        "BUILDSVC_LISTEN: 'nowhere' is not an address",
        "BUILDSVC_STROE: no such setting; did you mean store?",
        f"{config}: grcae: no such setting; did you mean grace?",
        f"{config}: download_concurrency: ",
    ]:
        assert any(line.startswith(part) for line in lines), (part, lines)
    assert caught.value.exit_code == 78


def test_the_variables_that_kubernetes_sets_for_services_are_no_settings() -> None:
    links = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP"]
    links += ["PORT_80_TCP_ADDR", "WEB_SERVICE_HOST", "WEB_PORT", "WEB_PORT_443_TCP_PROTO"]
    scripts = ["TOOLS", "BIN", "REGISTRY_ADDRESS"]
    steps = ["IMAGE_REPOSITORY", "IMAGE_REGISTRY_PASSWORD"]
    load({}, {f"BUILDSVC_{name}": "tcp://10.0.0.1:80" for name in [*links, *scripts, *steps]})
    with pytest.raises(ConfigError, match="BUILDSVC_PORTS"):
        load({}, {"BUILDSVC_PORTS": "1"})


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n", "expected a mapping"), ("a: [\n", "no YAML"), ("\xff", "no such setting|YAML|read")],
)
def test_a_file_that_is_no_mapping_is_an_error(config: Path, content: str, message: str) -> None:
    config.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=message):
        load(config=config)


def test_a_missing_file_is_an_error(config: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(config=config)


def test_a_password_on_the_command_line_is_refused_and_elsewhere_masked() -> None:
    url = "https://user:hunter2@store.invalid/cache?sig=abc"
    with pytest.raises(ConfigError, match="--store: has a password in it") as caught:
        load({"store": url})
    assert "hunter2" not in str(caught.value)
    settings = load({}, {"BUILDSVC_STORE": url})
    assert settings.store == url
    assert settings.shown()["store"] == "https://***@store.invalid/cache?***"


def test_all_errors_come_at_once_those_of_several_settings_too() -> None:
    flags = {"listen": "0.0.0.0:1234", "tls": "off", "grace": "soon", "store": "http://[::1"}
    with pytest.raises(ConfigError) as caught:
        load(flags)
    for part in ("--grace: ", "--store: ", "tls: off on 0.0.0.0:1234"):
        assert f"\n{part}" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load({**flags, "allow_reachable_endpoint": "perhaps"})
    assert "tls: off on" not in str(caught.value), "nobody knows what was meant"


def test_an_empty_variable_counts_as_unset(config: Path) -> None:
    config.write_text("tools_dir: /tools\n")
    names = [*SETTINGS, "config"]
    assert load({}, {f"BUILDSVC_{name.upper()}": "" for name in names}) == load()
    assert load({}, {"BUILDSVC_TOOLS_DIR": ""}, config).tools_dir == Path("/tools")
    with pytest.raises(ConfigError, match="BUILDSVC_TOLS_DIR: no such setting"):
        load({}, {"BUILDSVC_TOLS_DIR": ""})


@pytest.mark.parametrize("name", ["root", "tools_dir", "endpoint_file", "runc"])
def test_an_empty_path_is_not_the_current_directory(name: str, config: Path) -> None:
    config.write_text(f"{name}: ''\n")
    for flags, file in (({name: ""}, None), ({}, config)):
        with pytest.raises(ConfigError, match=f"{name.replace('_', '.')}: expected a "):
            load(flags, config=file)


def test_a_user_without_a_home_directory_names_a_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert load_settings({"root": "/x"}, {}).root == Path("/x")
    with pytest.raises(ConfigError, match=r"--grace: .*\nroot: expected a directory"):
        load_settings({"grace": "soon"}, {})


def test_plain_tcp_for_everybody_needs_the_explicit_switch() -> None:
    flags = {"listen": "0.0.0.0:1234", "tls": "off"}
    with pytest.raises(ConfigError, match="allow_reachable_endpoint"):
        load(flags)
    load({**flags, "allow_reachable_endpoint": "on"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"demand_timeout": "0"},
        {"grace": "soon"},
        {"grace": -1},
        {"grace": float("nan")},
        {"grace": "9" * 400},
        {"grace": "9" * 400 + "h"},
        {"grace": int("9" * 400)},
        {"max_used_space": "9" * 400},
        {"max_used_space": "9" * 400 + "GB"},
        {"download_concurrency": "9" * 5000},
        {"store": 5},
        {"root": 7},
        {"fallback_key": 3},
        {"unpack_workers": "1.5"},
        {"publish": "sometimes"},
        {"upload_limit": "999"},
        {"staging_limit": "63MiB"},
        {"max_used_space": "20 parsecs"},
        {"deny_cidr": ["10.0.0.0/99"]},
        {"verify_key": "/keys/d.pem"},
        {"verify_key": "d=/keys/d.pem"},
        {"verify_key": "t/d="},
        {"verify_key": "t/=/keys/d.pem"},
        {"verify_key": "t/d/e=/keys/d.pem"},
        {"cache_key": "a b"},
        {"cache_key": "{brunch}"},
        {"fallback_key": ["main", "{repository}{branch}"]},
        {"cache_key": ""},
        {"nofsync": "perhaps"},
        {"listen": "127.0.0.1"},
    ],
)
def test_wrong_values_are_named_after_their_flag(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=flag_name(next(iter(wrong)))):
        load(wrong)


def test_programs_are_looked_for_in_the_tools_directory_first(tmp_path: Path) -> None:
    for place in ("tools", "path"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "runc").write_text("#!/bin/sh\n")
        (tmp_path / place / "runc").chmod(0o755)
    settings = load({"tools_dir": tmp_path / "tools"})
    assert settings.program("runc") == tmp_path / "tools" / "runc"
    named = tmp_path / "path" / "runc"
    assert load({"runc": str(named)}).program("runc") == named
    with pytest.raises(EnvironmentUnfit, match="--buildkitd"):
        load({"buildkitd": "no-such-program"}).program("buildkitd")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20s", 20), ("10m", 600), ("1h30m", 5400), ("250ms", 0.25), ("90", 90), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "1x", "s", "1m 30s", True])
def test_no_durations(text: object) -> None:
    with pytest.raises(ValueError, match="20s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"), [("512MiB", 512 << 20), ("20GB", 20 * 10**9), ("1.5kb", 1500), (7, 7)]
)
def test_sizes(text: object, count: int) -> None:
    assert parse_size(text) == count


@given(st.integers(min_value=0, max_value=10**15))
def test_a_size_is_read_back_as_it_was_written(count: int) -> None:
    assert parse_size(size_text(count)) == count


@given(st.integers(min_value=0, max_value=10**7))
def test_a_duration_is_read_back_as_it_was_written(milliseconds: int) -> None:
    assert parse_duration(duration_text(milliseconds / 1000)) == milliseconds / 1000


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"root": "here"}).root == tmp_path / "here"
    assert load({"root": "~/x"}).root == Path(os.path.expanduser("~/x"))
