"""Options of the image: its names, its registry, and where else it goes."""

# ruff: noqa: RUF009  setting() makes a field().

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from buildsvc.imagebuild.values import (
    lines,
    parse_name_template,
    parse_output,
    parse_pair,
    parse_registry,
    words,
)
from buildsvc.setting import setting
from buildsvc.values import parse_duration, parse_name, parse_path, parse_switch, parse_text

_IMAGE, _REGISTRY = "image", "registry"


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """Fields of the options, and what follows from them alone."""

    repository: str = setting(
        parse_name_template,
        "",
        "Repository of the image, such as registry.example/team/app or {repository}.",
        "TEMPLATE",
        _IMAGE,
    )
    registry: str = setting(
        lambda value: parse_registry(value) if value else "",
        "",
        "Registry to put before the repository, when that does not begin with one.",
        "HOST[:PORT]",
        _IMAGE,
    )
    version: str = setting(
        parse_name_template, "", "Version of the image: its first tag.", "TEMPLATE", _IMAGE
    )
    tag: tuple[str, ...] = setting(
        words(parse_name_template), (), "Another tag. May be repeated.", "TEMPLATE", _IMAGE
    )
    push: bool = setting(
        parse_switch,
        "on",
        "Push the image. off: only build, and write what --output says.",
        "on|off",
        _IMAGE,
    )
    push_option: tuple[str, ...] = setting(
        lines(parse_pair),
        (),
        "Option of BuildKit's image exporter, such as compression=zstd. May be repeated.",
        "NAME=VALUE",
        _IMAGE,
    )
    output: tuple[str, ...] = setting(
        lines(parse_output),
        (),
        "Output to a file, beside the push: type=oci,dest=image.tar; types are oci, docker, tar "
        "and local. May be repeated.",
        "SPEC",
        _IMAGE,
    )

    registry_ca: Path | None = setting(
        parse_path,
        None,
        "Certificates (PEM) of the authority that the registry's is checked against, besides the "
        "system's.",
        "FILE",
        _REGISTRY,
    )
    registry_insecure: bool = setting(
        parse_switch,
        "off",
        "The registry speaks plain HTTP, or its certificate is not to be checked.",
        "on|off",
        _REGISTRY,
    )
    docker_config: Path | None = setting(
        parse_path,
        None,
        "Docker's config.json, or its directory, with credentials. "
        "Default: $DOCKER_CONFIG, ~/.docker.",
        "PATH",
        _REGISTRY,
    )
    registry_secret: Path | None = setting(
        parse_path,
        None,
        "Kubernetes secret mounted as files: .dockerconfigjson, or username and password.",
        "DIR",
        _REGISTRY,
    )
    registry_user: str = setting(
        lambda value: parse_name(value) if value else "",
        "",
        "User of the registry, for a password from elsewhere.",
        "NAME",
        _REGISTRY,
    )
    registry_password_file: Path | None = setting(
        parse_path,
        None,
        "File with the password or token. The variable BUILDSVC_IMAGE_REGISTRY_PASSWORD may have "
        "it instead.",
        "FILE",
        _REGISTRY,
    )
    registry_token_command: str = setting(
        parse_text,
        "",
        "Command, run by sh, that prints a short-lived password, or the JSON of a credential "
        "helper.",
        "COMMAND",
        _REGISTRY,
    )
    verify: bool = setting(
        parse_switch, "on", "Check that the registry has what was pushed.", "on|off", _REGISTRY
    )
    verify_timeout: float = setting(
        parse_duration, "60s", "How long the registry may take to show it.", "DURATION", _REGISTRY
    )

    def image_contradictions(self) -> list[tuple[frozenset[str], str]]:
        """Return which of these cannot go together, and what of that is to be said."""
        found: list[tuple[frozenset[str], str]] = []

        def add(names: str, text: str) -> None:
            found.append((frozenset(names.split()), text))

        if self.push and not self.repository:
            add("repository push", "--repository: expected a name to push to, or --push=off")
        if self.push and not (self.version or self.tag):
            add("version tag push", "--version: expected a version, a --tag, or --push=off")
        ways = {
            "--registry-password-file": self.registry_password_file,
            "--registry-token-command": self.registry_token_command,
            "--registry-secret": self.registry_secret,
        }
        given = [flag for flag, value in ways.items() if value]
        if len(given) > 1:
            names = "registry_password_file registry_token_command registry_secret"
            add(names, f"expected one source of the registry's password, found {', '.join(given)}")
        if self.registry_password_file and not self.registry_user:
            add("registry_user", "--registry-user: expected the user that the password is for")
        return found
