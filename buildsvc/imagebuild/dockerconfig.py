"""Docker's configuration of credentials: what is in one, and what it says of a registry.

The file: https://docs.docker.com/reference/cli/docker/login/ ; helpers:
https://github.com/docker/docker-credential-helpers
"""

from __future__ import annotations

import base64
import binascii
import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from buildsvc.errors import ConfigError
from buildsvc.imagebuild.errors import RegistryRefused
from buildsvc.imagebuild.names import DOCKER_HUB

_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER_SECONDS = 60.0

Document = dict[str, Any]


@dataclass(frozen=True)
class Credential:
    """What a registry is shown. ``token``: an identity token, instead of a password."""

    user: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        """Return what may be in a log or a traceback."""
        return f"Credential(user={self.user!r}, …)"

    def entry(self) -> Document:
        """Return it as an entry of ``auths``."""
        if self.token:
            return {"identitytoken": self.token}
        return {"auth": base64.b64encode(f"{self.user}:{self.password}".encode()).decode()}


def auth_key(host: str) -> str:
    """Return the name of a registry in ``auths``."""
    return _HUB_KEYS[0] if host == DOCKER_HUB else host


def parse_document(text: str, where: str) -> Document:
    """Return the content of a config.json. Raises ConfigError, without any of it."""
    document: object = None
    with suppress(ValueError):
        document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("auths", {}), dict):
        raise ConfigError(
            f"{where} is no configuration of Docker",
            expected='JSON such as {"auths": {"registry.example": {"auth": "…"}}}',
            found=f"{len(text)} characters that are something else",
        )
    return document


def credential(document: Mapping[str, Any], host: str) -> Credential:
    """Return what the configuration has for a registry, an empty one for nothing.

    Blocks while a helper runs.

    Raises:
        RegistryRefused: a helper fails.
        ConfigError: an entry is malformed.
    """
    names = _HUB_KEYS if host == DOCKER_HUB else (host, f"https://{host}", f"https://{host}/")
    helpers = document.get("credHelpers") or {}
    for name in names:
        if name in helpers:
            return _helped(helpers[name], name)
    entries = document.get("auths") or {}
    for name in names:
        found = _entry(entries.get(name) or {}, name)
        if found != Credential():
            return found
    if store := document.get("credsStore"):
        return _helped(store, names[0])
    return Credential()


def _entry(entry: Mapping[str, Any], name: str) -> Credential:
    if token := entry.get("identitytoken"):
        return Credential(token=token)
    if entry.get("username") and entry.get("password"):
        return Credential(entry["username"], entry["password"])
    if not entry.get("auth"):
        return Credential()
    user = colon = password = ""
    with suppress(binascii.Error, UnicodeDecodeError, TypeError):
        user, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
    if not colon:
        raise ConfigError(
            f"Docker's configuration has no usable entry for {name}",
            expected="auth: the Base64 of USER:PASSWORD",
            found="something else",
        )
    return Credential(user, password.rstrip("\0"))


def _helped(helper: str, name: str) -> Credential:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=name.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        found = error.strerror if isinstance(error, OSError) else "no answer"
        raise RegistryRefused(
            f"{program} gives no credentials for {name}", found=str(found),
            advice="Docker's configuration names it: install it in the step's image",
        ) from None  # fmt: skip
    if done.returncode:
        # By the protocol: there are none.
        return Credential()
    return from_helper(done.stdout.decode(errors="replace"), program)


def from_helper(text: str, program: str) -> Credential:
    """Return what a credential helper has printed. Raises RegistryRefused."""
    user = secret = None
    with suppress(ValueError, KeyError, TypeError):
        said = json.loads(text)
        user, secret = said["Username"], said["Secret"]
    if not isinstance(user, str) or not isinstance(secret, str):
        raise RegistryRefused(
            f"{program} printed no credentials",
            expected='{"Username": "…", "Secret": "…"}',
            found=f"{len(text)} characters that are something else",
        )
    return Credential(token=secret) if user == "<token>" else Credential(user, secret)
