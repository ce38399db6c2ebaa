"""The injection template: what is put into pods, and what their annotations may choose.

A YAML file, which is read again when it changes: a mounted ConfigMap does, without a restart.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from buildsvc.ci import VARIABLES
from buildsvc.errors import ConfigError
from buildsvc.log import get_logger
from buildsvc.webhook.annotations import CHOICES, DEFAULT_ALLOW

_log = get_logger(__name__)

Json = dict[str, Any]

#: Bytes of a template at most: of a ConfigMap.
_LONGEST = 1 << 20
_SPEC = (
    *("initContainers", "volumes", "runtimeClassName", "hostUsers", "securityContext"),
    *("terminationGracePeriodSeconds", "imagePullSecrets"),
)
_KNOWN = {
    "": ("spec", "client", "metadata", "allow", "variables"),
    "spec": _SPEC,
    "client": ("env", "volumeMounts"),
    "metadata": ("labels", "annotations"),
    "allow": tuple(CHOICES),
}


@dataclass(frozen=True)
class Template:
    """A checked template. ``digest`` is of its meaning: comments do not change it."""

    sidecar: Json
    spec: Json
    client: Json
    metadata: Json
    allow: Mapping[str, tuple[str, ...]]
    variables: frozenset[str]
    digest: str


def parse_template(text: str) -> Template:
    """Return the template of a YAML document. Raises ValueError that says what is wrong."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {error}") from None
    found = _mapping("", document)
    parts = ("spec", "client", "metadata")
    spec, client, metadata = (_mapping(part, found.get(part)) for part in parts)
    containers = _named("spec.initContainers", spec.pop("initContainers", None))
    if len(containers) != 1 or containers[0].get("restartPolicy") != "Always":
        raise ValueError(
            "spec.initContainers: expected one container with restartPolicy: Always, the sidecar"
        )
    spec["volumes"] = _named("spec.volumes", spec.get("volumes"))
    for name in ("env", "volumeMounts"):
        client[name] = _named(f"client.{name}", client.get(name))
    allow = _mapping("allow", found["allow"]) if "allow" in found else DEFAULT_ALLOW
    return Template(
        sidecar=containers[0],
        spec=spec,
        client=client,
        metadata=metadata,
        allow={name: _texts(f"allow.{name}", patterns) for name, patterns in allow.items()},
        variables=VARIABLES | frozenset(_texts("variables", found.get("variables", []))),
        digest=hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest(),
    )


def _mapping(where: str, value: object) -> Json:
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'it'}: expected a mapping, found {value!r}")  # noqa: TRY004  of the user's
    unknown = [str(key) for key in value if key not in _KNOWN[where]]
    if unknown:
        known = ", ".join(_KNOWN[where])
        raise ValueError(f"{where or 'it'}: has no {unknown[0]}; there can be {known}")
    return dict(value)


def _named(where: str, value: object) -> list[Json]:
    value = [] if value is None else value
    if not isinstance(value, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in value
    ):
        raise ValueError(f"{where}: expected a list of mappings, each with a name")
    return value


def _texts(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{where}: expected a list of texts, found {value!r}")
    return tuple(value)


class TemplateFile:
    """The template in a file. :meth:`current` blocks for a look at the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._template: Template | None = None
        self._problem = ""

    def current(self) -> Template:
        """Return the newest template that can be used, which is read again if the file changed.

        A newer one that cannot be used is logged, once. Raises ConfigError when there was none yet
        that can. Threads may call it at one time.
        """
        with self._lock:
            return self._newest()

    def _newest(self) -> Template:
        try:
            seen = _version(self._path)
            if self._template is not None and seen == self._seen:
                return self._template
            self._seen = seen
            self._template = parse_template(_read(self._path))
        except (OSError, ValueError) as error:
            if self._template is None:
                raise ConfigError(
                    f"the injection template {self._path} cannot be used",
                    expected="YAML as in docs/injection.md",
                    found=str(error),
                    advice="correct it, or name another with --template",
                ) from error
            if self._problem != str(error):
                self._problem = str(error)
                _log.error("the new injection template cannot be used", error=error)
            return self._template
        self._problem = ""
        _log.info("read the injection template", digest=self._template.digest)
        return self._template


def _version(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> str:
    with open(path, encoding="utf-8") as file:
        text = file.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} characters")
    return text
