"""The command line of buildctl, and what is looked at before it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildsvc.errors import BuildsvcError, ConfigError
from buildsvc.imagebuild.errors import InputMissing
from buildsvc.imagebuild.job import job_arguments
from buildsvc.imagebuild.names import image_names
from buildsvc.imagebuild.settings import load_settings
from buildsvc.imagebuild.values import fields_of, fields_text
from sidecar.certificates import make_certificates


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return tmp_path


def job(app: Path | str, variables: dict[str, str] | None = None, **flags: object) -> list[str]:
    given = {"repository": "r.example/app", "version": "1", "context": str(app), **flags}
    settings = load_settings(given, {})
    return job_arguments(settings, image_names(settings, {}), variables or {})


def test_the_least(app: Path) -> None:
    assert job(app) == [
        "--frontend=dockerfile.v0",
        "--progress=auto",
        f"--local=context={app}",
        f"--local=dockerfile={app}",
        "--opt=filename=Dockerfile",
        "--output=type=image,name=r.example/app:1,push=true",
    ]


def test_everything(app: Path) -> None:
    (app / "sub").mkdir()
    make_certificates(app / "server", app / "client")
    authority = app / "server" / "ca.pem"
    (app / "sub" / "Other").touch()
    found = job(
        app, {"HOW": "well, so"}, dockerfile="sub/Other", target="t", build_arg=["A=b c", "HOW"],
        platform="linux/amd64,linux/arm64", label=["l=1"], sbom="generator=r/s", provenance="max",
        frontend_opt=["x=y"], allow=["network.host"], cache_from=["type=registry,ref=r/c"],
        cache_to=["type=inline"], tag=["2"], annotation=["n=a, b"], registry_insecure="on",
        registry_ca=str(authority), no_cache="on", push_option=["compression=zstd"],
        output=["type=docker,dest=/o.tar"],
    )  # fmt: skip
    for argument in (
        f"--local=dockerfile={app}/sub", "--opt=filename=Other", "--opt=target=t",
        "--opt=platform=linux/amd64,linux/arm64", "--opt=build-arg:A=b c",
        "--opt=build-arg:HOW=well, so", "--opt=label:l=1", "--opt=attest:sbom=generator=r/s",
        "--opt=attest:provenance=mode=max", "--opt=x=y", "--allow=network.host", "--no-cache",
        "--import-cache=type=registry,ref=r/c", "--export-cache=type=inline",
        f"--registry-auth-tlscontext=host=r.example,ca={authority},insecure=true",
        (
            '--output=type=image,"name=r.example/app:1,r.example/app:2",push=true,'
            'registry.insecure=true,"annotation.n=a, b",compression=zstd'
        ),
        (
            '--output="annotation.n=a, b",type=docker,dest=/o.tar,'
            '"name=r.example/app:1,r.example/app:2"'
        ),
    ):  # fmt: skip
        assert argument in found


def test_nothing_is_pushed_when_that_is_off(app: Path) -> None:
    assert not [one for one in job(app, push="off") if one.startswith("--output")]


def test_secrets_are_named_and_not_shown(app: Path) -> None:
    (app / "token").write_text("hunter2")
    found = job(
        app, {"WORD": "hunter2", "SSH_AUTH_SOCK": str(app)}, ssh=["default"],
        secret=[f"id=a,src={app / 'token'}", "id=b,env=WORD"],
    )  # fmt: skip
    assert f"--secret=id=a,src={app / 'token'}" in found
    assert {"--secret=id=b,env=WORD", "--ssh=default"} <= {*found}
    assert not any("hunter2" in argument for argument in found)


def test_a_git_repository() -> None:
    found = job("https://git.example/app.git#main:sub", dockerfile="d/Dockerfile")
    assert "--opt=context=https://git.example/app.git#main:sub" in found
    assert "--opt=filename=d/Dockerfile" in found
    assert not [one for one in found if one.startswith("--local")]
    assert "--opt=context=git@git.example:app.git" in job("git@git.example:app.git")


@pytest.mark.parametrize(
    ("flags", "kind", "said"),
    [
        ({"context": "/nowhere"}, InputMissing, "/nowhere, which does not exist"),
        ({"context": "/dev/null"}, InputMissing, "/dev/null, which is something else"),
        ({"dockerfile": "Other"}, InputMissing, "Other, which does not exist"),
        ({"build_arg": ["NOT_SET"]}, ConfigError, "--build-arg NOT_SET=VALUE"),
        ({"secret": ["id=a,src=/nowhere"]}, InputMissing, "/nowhere, which does not exist"),
        ({"secret": ["id=a,env=NOT_SET"]}, InputMissing, "the variable NOT_SET"),
        ({"ssh": ["default"]}, InputMissing, "SSH_AUTH_SOCK is not set"),
        ({"ssh": ["a=/nowhere"]}, InputMissing, "/nowhere, which does not exist"),
        ({"registry_ca": "/nowhere"}, InputMissing, "No such file"),
        ({"registry_ca": "/etc/passwd"}, ConfigError, "certificates in PEM"),
        ({"context": "https://me:hunter2@g.example/a.git"}, ConfigError, "GIT_AUTH_TOKEN"),
        ({"context": "https://g.example/a.git", "dockerfile": "/D"}, ConfigError, "relative to"),
    ],
)
def test_what_is_missing(
    app: Path, flags: dict[str, object], kind: type[BuildsvcError], said: str
) -> None:
    with pytest.raises(kind, match=said) as error:
        job(**{"app": app, **flags})  # type: ignore[arg-type]
    assert "hunter2" not in str(error.value)
    assert error.value.exit_code == {InputMissing: 66, ConfigError: 78}[kind]


@pytest.mark.parametrize(
    "fields",
    [{"a": "b"}, {"a": "b,c", "d": ""}, {"a": 'says "x, y"'}, {"a": " b "}, {"a": "x=y"}],
)
def test_fields_are_read_back(fields: dict[str, str]) -> None:
    assert fields_of(fields_text(fields)) == fields
