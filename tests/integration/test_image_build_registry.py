"""The step and a registry that wants a password, with an authority of its own."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from sidecar.certificates import make_certificates
from tests.integration.conftest import Registries
from tests.integration.contexts import BASE, context
from tests.integration.sidecars import Pod, pod
from tests.integration.steps import HTTP, beside, result, step

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

USER, PASSWORD = "robot", "hunter2-registry"
#: Of the password, by crypt(3).
HASH = "$2b$04$abcdefghijklmnopqrstuuM/Z0A7FUJ615yT0MkE8r/urtke.cnyW"


@dataclass(frozen=True)
class Place:
    """A pod that knows the registry's authority, the registry, and the step's flags for both."""

    pod: Pod
    registry: str
    flags: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    shared: Path, registries: Registries, reachable_address: str
) -> AsyncIterator[Place]:
    directory = shared / "registry-guarded"
    make_certificates(directory, shared / "unused", reachable_address)
    (directory / "htpasswd").write_text(f"{USER}:{HASH}\n")
    registry = registries.start("guarded")
    config = shared / "buildkitd.toml"
    config.write_text(f'[registry."{registry}"]\n  ca = ["{directory / "ca.pem"}"]\n')
    async with pod(shared / "one", HTTP, f"--buildkitd-config={config}") as one:
        flags = [*await beside(one), f"--registry={registry}"]
        flags += [f"--registry-ca={directory / 'ca.pem'}"]
        yield Place(one, registry, flags)


@pytest.fixture
def app(directory: Path) -> Path:
    return context(directory / "context", BASE)


def docker_config(registry: str, password: str = PASSWORD) -> str:
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    return json.dumps({"auths": {registry: {"auth": auth}}})


WAYS = ("docker-config", "json-secret", "basic-secret", "file", "variable", "command", "helper")


def credentials(way: str, registry: str, directory: Path) -> tuple[list[str], dict[str, str]]:
    """Put the credentials where they are in this way, and return flags and variables."""
    secret = directory / "secret"
    secret.mkdir()
    (secret / "password").write_text(PASSWORD)
    user = f"--registry-user={USER}"
    match way:
        case "docker-config":
            (secret / "config.json").write_text(docker_config(registry))
            return [], {"DOCKER_CONFIG": str(secret)}
        case "json-secret":
            (secret / ".dockerconfigjson").write_text(docker_config(registry))
            return [f"--registry-secret={secret}"], {}
        case "basic-secret":
            (secret / "username").write_text(USER)
            return [f"--registry-secret={secret}"], {}
        case "file":
            return [user, f"--registry-password-file={secret / 'password'}"], {}
        case "variable":
            return [user], {"BUILDSVC_IMAGE_REGISTRY_PASSWORD": PASSWORD}
        case "command":
            return [user, f"--registry-token-command=cat {secret / 'password'}"], {}
        case _:
            helper = secret / "docker-credential-test"
            said = json.dumps({"Username": USER, "Secret": PASSWORD})
            helper.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{said}'\n")
            helper.chmod(0o755)
            (secret / "config.json").write_text(json.dumps({"credsStore": "test"}))
            path = f"{secret}:{os.environ['PATH']}"
            return [f"--docker-config={secret}"], {"PATH": path}


@pytest.mark.parametrize("way", WAYS)
async def test_credentials_from_everywhere(
    place: Place, app: Path, directory: Path, way: str
) -> None:
    given, variables = credentials(way, place.registry, directory)
    temporary = directory / "tmp"
    temporary.mkdir()
    done = await step(
        directory, *place.flags, *given, f"--repository=app/{way}", "--version=1",
        f"--context={app}", f"--result-file={directory / 'result.json'}",
        env={**variables, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert done.code == 0, done.err
    assert result(directory / "result.json")["verified"]
    assert PASSWORD not in done.err + (directory / "result.json").read_text()
    assert list(temporary.iterdir()) == []


async def test_without_credentials_the_build_fails_as_buildctl_does(
    place: Place, app: Path, directory: Path
) -> None:
    done = await step(
        directory, *place.flags, "--repository=app/none", "--version=1", f"--context={app}"
    )
    assert done.code == 1, done.err
    assert "401" in done.err or "authorization failed" in done.err
    assert "is in the registry" not in done.err


async def test_an_authority_that_the_step_does_not_know(
    place: Place, app: Path, directory: Path
) -> None:
    """The daemon pushes, and knows it; what the step cannot check is an error of its own."""
    given, variables = credentials("file", place.registry, directory)
    flags = [flag for flag in place.flags if not flag.startswith("--registry-ca=")]
    done = await step(
        directory, *flags, *given, "--repository=app/unknown", "--version=1", f"--context={app}",
        f"--digest-file={directory / 'digest'}", env=variables,
    )  # fmt: skip
    assert done.code == 78, done.err
    assert "set --registry-ca" in done.err
    assert not (directory / "digest").exists()
