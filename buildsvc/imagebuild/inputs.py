"""What a build reads of this machine, and how buildctl is told: context, Dockerfile, secrets."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from buildsvc.errors import ConfigError
from buildsvc.imagebuild.buildsettings import BuildSettings
from buildsvc.imagebuild.errors import InputMissing
from buildsvc.imagebuild.values import fields_of

_REMOTE = re.compile(r"(?:https?|ssh|git)://|[\w.-]+@[\w.-]+:")
_PASSWORD = re.compile(r"https?://[^/@]*:[^/@]+@")


@dataclass(frozen=True)
class Context:
    """What is told of context and Dockerfile: values of --local, and of --opt."""

    local: tuple[str, ...]
    options: tuple[str, ...]


def find_context(settings: BuildSettings) -> Context:
    """Return where context and Dockerfile are.

    Raises:
        InputMissing: one of them is not there.
        ConfigError: a URL that has a password in it, or whose Dockerfile would be elsewhere.
    """
    if _REMOTE.match(settings.context):
        return _remote(settings)
    directory = os.path.abspath(settings.context)
    if not os.path.isdir(directory):
        raise InputMissing(
            "there is no such build context",
            expected="a directory, or the URL of a Git repository",
            found=f"{directory}, which {_what(directory)}",
            advice="set --context, and look whether the step has the sources' volume",
        )
    path = os.path.join(directory, settings.dockerfile)
    if not os.path.isfile(path):
        raise InputMissing(
            "there is no such Dockerfile",
            expected="a file; a relative path begins at the context",
            found=f"{path}, which {_what(path)}",
            advice="set --dockerfile",
        )
    place, name = os.path.split(path)
    return Context((f"context={directory}", f"dockerfile={place}"), (f"filename={name}",))


def _what(path: str) -> str:
    return "is something else" if os.path.lexists(path) else "does not exist"


def _remote(settings: BuildSettings) -> Context:
    if _PASSWORD.match(settings.context):
        raise ConfigError(
            "the URL of the context has a password in it, which other processes can read",
            expected="a URL without one",
            advice="give the token as --secret id=GIT_AUTH_TOKEN,env=VARIABLE",
        )
    if os.path.isabs(settings.dockerfile):
        raise ConfigError(
            "a context that is a URL has its Dockerfile in it",
            expected="a path relative to its root",
            found=settings.dockerfile,
            advice="set --dockerfile",
        )
    return Context((), (f"context={settings.context}", f"filename={settings.dockerfile}"))


def build_arguments(settings: BuildSettings, variables: Mapping[str, str]) -> list[str]:
    """Return NAME=VALUE of each build argument.

    Raises ConfigError for a variable that is not set.
    """
    found = []
    for argument in settings.build_arg:
        name, equals, _ = argument.partition("=")
        if not equals and name not in variables:
            raise ConfigError(
                f"the build argument {name} has no value",
                expected=f"--build-arg {name}=VALUE, or the variable {name}",
                found="neither",
            )
        found.append(argument if equals else f"{name}={variables[name]}")
    return found


def check_authority(path: Path | None) -> None:
    """Look whether certificates of an authority can be used, before a build needs them.

    Raises InputMissing, or ConfigError for a file of something else.
    """
    if path is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigError(
            f"--registry-ca {path} cannot be used",
            expected="certificates in PEM",
            found="none that can be read",
        ) from None
    except OSError as error:
        raise InputMissing(
            f"--registry-ca {path} cannot be read", found=str(error.strerror)
        ) from None


def check_secrets(settings: BuildSettings, variables: Mapping[str, str]) -> None:
    """Look whether what secrets and keys come from is there; buildctl reads it itself.

    Raises InputMissing.
    """
    for spec in settings.secret:
        fields = fields_of(spec)
        missing = ""
        if "env" in fields and fields["env"] not in variables:
            missing = f"the variable {fields['env']}, which is not set"
        elif "src" in fields and not os.path.isfile(fields["src"]):
            missing = f"the file {fields['src']}, which {_what(fields['src'])}"
        if missing:
            raise InputMissing(
                f"the secret {fields['id']} is not there", found=missing, advice="see --secret"
            )
    for spec in settings.ssh:
        name, equals, sources = spec.partition("=")
        if not equals and not variables.get("SSH_AUTH_SOCK"):
            raise InputMissing(
                f"there is no SSH agent for {name}",
                expected=f"SSH_AUTH_SOCK, or --ssh {name}=SOCKET or {name}=KEY",
                found="SSH_AUTH_SOCK is not set",
            )
        for source in sources.split(",") if equals else ():
            if not source.startswith("raw=") and not os.path.exists(source):
                raise InputMissing(
                    f"the agent or key for {name} is not there",
                    found=f"{source}, which {_what(source)}",
                    advice="see --ssh",
                )
