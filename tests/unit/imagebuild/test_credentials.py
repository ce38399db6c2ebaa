"""Credentials: every source, what wins, what is wrong, and who can read them."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from buildsvc.errors import CannotCreate, ConfigError
from buildsvc.imagebuild.credentials import GivenCredentials, shown_to, write_configuration
from buildsvc.imagebuild.dockerconfig import Credential
from buildsvc.imagebuild.errors import InputMissing, RegistryRefused
from buildsvc.imagebuild.settings import load_settings
from tests.unit.imagebuild.fakes import script

HOST = "r.example:5000"
ME = Credential("me", "hunter2")


def document(host: str = HOST, given: Credential = ME, **more: object) -> dict[str, Any]:
    return {"auths": {host: given.entry()}, **more}


async def found(
    environ: dict[str, str] | None = None, /, *, host: str = HOST, **flags: object
) -> tuple[Credential, dict[str, Any]]:
    settings = load_settings({"push": "off", **flags}, {})
    variables = {"DOCKER_CONFIG": "/nowhere", **(environ or {})}
    made = await GivenCredentials(settings, variables).document(host)
    return await shown_to(made, host), made


async def test_none() -> None:
    assert await found() == (Credential(), {})


async def test_dockers_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(document(proxies={"x": "y"})))
    assert (await found({"DOCKER_CONFIG": str(tmp_path)}))[0] == ME
    for path in (tmp_path, tmp_path / "config.json"):
        credential, made = await found(docker_config=str(path))
        assert (credential, made["proxies"]) == (ME, {"x": "y"})


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"]
)
async def test_docker_hub_has_several_names(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(document(key)))
    assert (await found(docker_config=str(tmp_path), host="docker.io"))[0] == ME


@pytest.mark.parametrize(
    ("entry", "credential"),
    [
        ({"username": "me", "password": "hunter2"}, ME),
        ({"identitytoken": "t"}, Credential(token="t")),
        ({"auth": base64.b64encode(b"me:hun:ter2\0").decode()}, Credential("me", "hun:ter2")),
        ({}, Credential()),
    ],
)
async def test_entries(tmp_path: Path, entry: dict[str, str], credential: Credential) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {f"https://{HOST}": entry}}))
    assert (await found(docker_config=str(tmp_path)))[0] == credential


async def test_a_mounted_secret_goes_beside_dockers_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(document("base.example")))
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / ".dockerconfigjson").write_text(json.dumps(document()))
    credential, made = await found(docker_config=str(tmp_path), registry_secret=str(secret))
    assert credential == ME
    assert made["auths"].keys() == {HOST, "base.example"}


async def test_given_credentials_win_over_helpers(tmp_path: Path) -> None:
    configured = {"credHelpers": {HOST: "missing", "other.example": "x"}, "credsStore": "missing"}
    (tmp_path / "config.json").write_text(json.dumps(configured))
    (tmp_path / "username").write_text("me\n")
    (tmp_path / "password").write_text("hunter2\n")
    credential, made = await found(docker_config=str(tmp_path), registry_secret=str(tmp_path))
    assert credential == ME
    assert made["credHelpers"] == {"other.example": "x"}


async def test_files_variables_and_commands(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    path = str(tmp_path / "password")
    user = {"registry_user": "me"}
    assert (await found(**user, registry_password_file=path))[0] == ME
    variable = {"BUILDSVC_IMAGE_REGISTRY_PASSWORD": "hunter2"}
    assert (await found(variable, **user))[0] == ME
    assert (await found(**user, registry_token_command=f"cat {path}"))[0] == ME
    said = json.dumps({"Username": "me", "Secret": "hunter2"})
    assert (await found(registry_token_command=f"echo '{said}'"))[0] == ME


async def test_a_token_is_asked_for_each_time(tmp_path: Path) -> None:
    command = f"echo x >> {tmp_path / 'n'}; wc -l < {tmp_path / 'n'}"
    settings = load_settings(
        {"push": "off", "registry_user": "me", "registry_token_command": command}, {}
    )
    given = GivenCredentials(settings, {"DOCKER_CONFIG": "/nowhere"})
    passwords = [(await shown_to(await given.document(HOST), HOST)).password for _ in range(2)]
    assert passwords == ["1", "2"]


async def test_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    asked = tmp_path / "asked"
    answer = '{"Username": "<token>", "Secret": "t"}'
    script(tmp_path / "docker-credential-good", f"read host; echo $host > {asked}; echo '{answer}'")
    script(tmp_path / "docker-credential-none", "echo not found; exit 1")
    script(tmp_path / "docker-credential-bad", "echo hunter2")
    config = tmp_path / "config.json"
    for configured in ({"credsStore": "good"}, {"credHelpers": {HOST: "good"}}):
        config.write_text(json.dumps(configured))
        assert (await found(docker_config=str(config)))[0] == Credential(token="t")
        assert asked.read_text() == f"{HOST}\n"
    config.write_text(json.dumps({"credsStore": "none"}))
    assert (await found(docker_config=str(config)))[0] == Credential()
    for bad in ("bad", "missing"):
        config.write_text(json.dumps({"credsStore": bad}))
        with pytest.raises(RegistryRefused) as error:
            await found(docker_config=str(config))
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "kind", "said"),
    [
        ({"registry_secret": "EMPTY"}, InputMissing, "found: nothing"),
        ({"registry_secret": "HALF"}, InputMissing, "found: username"),
        ({"registry_secret": "/nowhere"}, InputMissing, "is no secret of a registry"),
        ({"docker_config": "/nowhere"}, InputMissing, "No such file"),
        ({"docker_config": "BAD"}, ConfigError, "is no configuration of Docker"),
        ({"docker_config": "WRONG"}, ConfigError, "expected: auth: the Base64"),
        (
            {"registry_user": "me", "registry_password_file": "/nowhere"},
            InputMissing,
            "change --registry-password-file",
        ),
        ({"registry_user": "me", "registry_token_command": "exit 3"}, RegistryRefused, "code 3"),
        ({"registry_user": "me", "registry_token_command": "true"}, RegistryRefused, "0 charac"),
        ({"registry_token_command": "echo hunter2"}, ConfigError, "set --registry-user"),
        ({"registry_token_command": "echo {hunter2"}, RegistryRefused, "printed no credentials"),
    ],
)
async def test_what_is_wrong(
    tmp_path: Path, flags: dict[str, str], kind: type[Exception], said: str
) -> None:
    for name in ("EMPTY", "HALF"):
        (tmp_path / name).mkdir()
    (tmp_path / "HALF" / "username").touch()
    (tmp_path / "BAD").write_text("hunter2")
    (tmp_path / "WRONG").write_text(json.dumps({"auths": {HOST: {"auth": "hunter2"}}}))
    given = {
        name: str(tmp_path / value) if value.isupper() else value for name, value in flags.items()
    }
    with pytest.raises(kind, match=said) as error:
        await found(**given)
    assert "hunter2" not in str(error.value)


async def test_a_variable_without_a_user() -> None:
    with pytest.raises(ConfigError, match="BUILDSVC_IMAGE_REGISTRY_PASSWORD has a password"):
        await found({"BUILDSVC_IMAGE_REGISTRY_PASSWORD": "hunter2"})


def test_nobody_else_reads_what_is_written(tmp_path: Path) -> None:
    for _ in range(2):
        write_configuration(tmp_path, document())
    path = tmp_path / "config.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == document()


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match=r"config\.json cannot be written"):
        write_configuration(tmp_path / "file", document())


def test_a_credential_is_not_shown() -> None:
    assert "hunter2" not in repr(ME)
    assert "hunter2" not in repr(Credential(token="hunter2"))
