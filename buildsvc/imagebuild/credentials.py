"""Credentials of the registry: from where the options say, to a private directory for buildctl."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from buildsvc.errors import CannotCreate, ConfigError
from buildsvc.imagebuild.dockerconfig import (
    Credential,
    Document,
    auth_key,
    credential,
    from_helper,
    parse_document,
)
from buildsvc.imagebuild.errors import InputMissing, RegistryRefused
from buildsvc.imagebuild.imagesettings import ImageSettings
from buildsvc.imagebuild.settings import PASSWORD

_COMMAND_SECONDS = 60.0
_SECRET_JSON, _SECRET_USER, _SECRET_PASSWORD = ".dockerconfigjson", "username", "password"


class Credentials(Protocol):
    """Where credentials come from."""

    async def document(self, host: str) -> Document:
        """Return a configuration of Docker with what there is for a registry, read anew.

        Raises ConfigError, InputMissing, RegistryRefused.
        """


class GivenCredentials:
    """Those that options and variables name, on top of Docker's own configuration."""

    def __init__(self, settings: ImageSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ

    async def document(self, host: str) -> Document:
        """See :class:`Credentials`."""
        settings = self._settings
        document = self._configuration()
        found: Credential | None = None
        if settings.registry_secret is not None:
            found = self._secret(settings.registry_secret, document)
        elif settings.registry_token_command:
            found = await self._commanded(settings.registry_token_command)
        elif settings.registry_password_file is not None:
            password = _read(settings.registry_password_file, "--registry-password-file")
            found = Credential(settings.registry_user, password.strip())
        elif self._environ.get(PASSWORD):
            found = Credential(self._user(PASSWORD), self._environ[PASSWORD])
        if found is not None:
            # A helper that is configured for the host would win over the entry.
            document.get("credHelpers", {}).pop(host, None)
            document.setdefault("auths", {})[auth_key(host)] = found.entry()
        return document

    def _configuration(self) -> Document:
        given = self._settings.docker_config
        default = self._environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        path = given or Path(default)
        path = path / "config.json" if path.is_dir() or given is None else path
        if given is None and not path.is_file():
            return {}
        return parse_document(_read(path, "--docker-config"), str(path))

    def _secret(self, directory: Path, document: Document) -> Credential | None:
        """Read a secret of one of Kubernetes' two types; the one with JSON goes into ``document``.

        https://kubernetes.io/docs/concepts/configuration/secret/#secret-types
        """
        if (directory / _SECRET_JSON).is_file():
            text = _read(directory / _SECRET_JSON, "--registry-secret")
            mounted = parse_document(text, str(directory / _SECRET_JSON))
            auths = {**document.get("auths", {}), **mounted.get("auths", {})}
            document |= {**mounted, "auths": auths}
            return None
        files = [directory / name for name in (_SECRET_USER, _SECRET_PASSWORD)]
        if not all(file.is_file() for file in files):
            there = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
            raise InputMissing(
                f"{directory} is no secret of a registry",
                expected=f"a file {_SECRET_JSON}, or {_SECRET_USER} and {_SECRET_PASSWORD}",
                found=", ".join(there) or "nothing",
                advice="mount a secret of type kubernetes.io/dockerconfigjson or "
                "kubernetes.io/basic-auth there, or change --registry-secret",
            )
        user, password = (_read(file, "--registry-secret") for file in files)
        return Credential(user.strip(), password.rstrip("\r\n"))

    async def _commanded(self, command: str) -> Credential:
        child = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                out, _ = await child.communicate()
        except TimeoutError:
            raise RegistryRefused(
                "--registry-token-command gives no token",
                found=f"no end within {_COMMAND_SECONDS:g} s",
            ) from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        text = out.decode(errors="replace").strip()
        if child.returncode or not text:
            raise RegistryRefused(
                "--registry-token-command gives no token",
                expected="exit code 0 and a password, or a credential helper's JSON",
                found=f"exit code {child.returncode} and {len(text)} characters",
                advice="its own messages are above",
            )
        if text.startswith("{"):
            return from_helper(text, "--registry-token-command")
        return Credential(self._user("--registry-token-command"), text)

    def _user(self, what: str) -> str:
        if not self._settings.registry_user:
            raise ConfigError(
                f"{what} has a password, and no user",
                expected="the registry's user for it",
                found="none",
                advice="set --registry-user; registries that take tokens name one for them",
            )
        return self._settings.registry_user


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputMissing(
            f"the registry's credentials cannot be read from {path}",
            found=str(reason),
            advice=f"change {option}, or the rights of the file",
        ) from None


def write_configuration(directory: Path, document: Document) -> None:
    """Write it where DOCKER_CONFIG=``directory`` has it read, for nobody else to see.

    Raises CannotCreate.
    """
    path = directory / "config.json"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file)
    except OSError as error:
        raise CannotCreate(f"{path} cannot be written", found=error.strerror or "") from error


async def shown_to(document: Document, host: str) -> Credential:
    """Return what the configuration has for a registry, asking helpers if it names some.

    Raises RegistryRefused, ConfigError.
    """
    return await asyncio.to_thread(credential, document, host)
