"""The names that an image gets, from templates and what the CI system tells.

What a reference is made of: https://github.com/distribution/reference (reference.go).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from buildsvc.ci import Fact
from buildsvc.errors import ConfigError
from buildsvc.imagebuild.imagesettings import ImageSettings
from buildsvc.imagebuild.values import TOLD
from buildsvc.templates import parse_template, told_fact

DOCKER_HUB = "docker.io"
_SHORT = 12
_LONGEST_TAG = 128
_LONGEST_REPOSITORY = 255

_HOST = re.compile(r"[^/]*[.:][^/]*|localhost")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


@dataclass(frozen=True)
class ImageNames:
    """Host (and port) of the registry, path of the repository in it, and the tags, each once."""

    host: str
    path: str
    tags: tuple[str, ...]

    @property
    def repository(self) -> str:
        """The repository as people write it."""
        return f"{self.host}/{self.path}"

    @property
    def references(self) -> list[str]:
        """One for each tag, that of the version first."""
        return [f"{self.repository}:{tag}" for tag in self.tags]


def image_names(settings: ImageSettings, variables: Mapping[str, str]) -> ImageNames | None:
    """Return the names that the templates make; None for an image without any.

    Raises ConfigError: a variable is missing, or what came out is no name.
    """
    if not settings.repository:
        return None
    text = _filled("repository", settings.repository, variables)
    host, path = _split(text, settings.registry)
    if not _PATH.fullmatch(path) or len(path) > _LONGEST_REPOSITORY:
        raise ConfigError(
            f"the repository {settings.repository!r} makes no name",
            expected="lower case letters and digits, with . _ or - between them, separated by /",
            found=repr(path),
            advice="change --repository",
        )
    written = [("version", settings.version), *(("tag", tag) for tag in settings.tag)]
    tags = [_tag(option, template, variables) for option, template in written if template]
    return ImageNames(host, path, tuple(dict.fromkeys(tags)))


def _split(text: str, registry: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and _HOST.fullmatch(first):
        if registry and registry != first:
            raise ConfigError(
                f"the repository {text!r} names another registry than --registry",
                expected=registry,
                found=first,
                advice="leave one of them out",
            )
        return first, rest
    if registry:
        return registry, text
    # As BuildKit and Docker read it.
    return DOCKER_HUB, text if slash else f"library/{text}"


def _tag(option: str, template: str, variables: Mapping[str, str]) -> str:
    text = _filled(option, template, variables)[:_LONGEST_TAG]
    if not _TAG.fullmatch(text):
        raise ConfigError(
            f"--{option} {template!r} makes no tag",
            expected="letters, digits and _ . -, and neither . nor - at the beginning",
            found=repr(text),
            advice=f"change --{option}",
        )
    return text


def _filled(option: str, template: str, variables: Mapping[str, str]) -> str:
    name = ""
    for place in parse_template(template, TOLD):
        name += place.text
        if place.placeholder:
            fact = _fact(f"--{option} {template!r}", place.placeholder, variables)
            value = f"{fact.kind}-" * bool(fact.kind) + fact.value
            name += _fitting(value, repository=option == "repository")
    return name


def _fact(what: str, placeholder: str, variables: Mapping[str, str]) -> Fact:
    # On a server of Git: its host is no part of the image's name.
    asked = {"repository": "path", "short_commit": "commit"}.get(placeholder, placeholder)
    fact = told_fact(what, asked, variables, "the step's container")
    return Fact(fact.value[:_SHORT]) if placeholder == "short_commit" else fact


def _fitting(value: str, *, repository: bool) -> str:
    """Return the value with a ``-`` for whatever a reference cannot have there."""
    if repository:
        return re.sub(r"[^a-z0-9._/-]+", "-", value.lower()).strip("-./_")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", value)
