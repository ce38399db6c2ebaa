"""What a pod's annotations ask for, and what of it the template permits.

Whoever may create a pod chooses its annotations, so none can name an image, a registry, a store or
a mount. What they choose is a setting of the sidecar in a fixed table, and only where the template
permits the value: an annotation must not make more of a pod than the template does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from buildsvc.keynames import parse_key_name
from buildsvc.values import one_of, parse_name, several
from buildsvc.webhook.errors import NotInjected

PREFIX = "buildsvc.io/"
INJECT = PREFIX + "inject"
CONTAINERS = PREFIX + "containers"
INJECTED = PREFIX + "injected"

#: What a template permits that does not say it: other names in the trust domain of the template,
#: and less than the template does.
DEFAULT_ALLOW: Mapping[str, tuple[str, ...]] = {
    "cache-key": ("*",),
    "fallback-key": ("*",),
    "publish": ("never",),
}

#: Settings that an annotation can choose where the template permits it, and how each is read.
CHOICES: Mapping[str, Callable[[object], Any]] = {
    "cache-key": parse_key_name,
    "fallback-key": several(parse_key_name),
    "publish": one_of("always", "on-success", "never"),
    "read-domain": several(parse_name),
    "trust-domain": parse_name,
}


@dataclass(frozen=True)
class Wish:
    """``containers`` is None for all of them; ``settings`` are by name, as the sidecar reads them.

    The settings are text of the pod's author, checked.
    """

    containers: tuple[str, ...] | None
    settings: Mapping[str, str]


def asks(annotations: Mapping[str, str]) -> bool:
    """Return whether a pod asks for the sidecar. Raises NotInjected for neither yes nor no."""
    answer = annotations.get(INJECT, "false")
    if answer not in ("true", "false"):
        raise NotInjected(f'{INJECT}: expected "true" or "false", found {answer!r}')
    return answer == "true"


def wish(annotations: Mapping[str, str], allow: Mapping[str, Sequence[str]]) -> Wish:
    """Return what the annotations of a pod ask for.

    Raises:
        NotInjected: one is unknown, wrong, or more than ``allow`` permits.
    """
    containers: tuple[str, ...] | None = None
    settings: dict[str, str] = {}
    for name, text in sorted(annotations.items()):
        short = name.removeprefix(PREFIX)
        if short == name or name in (INJECT, INJECTED):
            continue
        if name == CONTAINERS:
            containers = tuple(word.strip() for word in text.split(",") if word.strip())
            if not containers:
                raise NotInjected(f"{name}: expected names of containers, found {text!r}")
        elif short in CHOICES:
            settings[short] = _chosen(name, text, allow.get(short, ()))
        else:
            known = ", ".join(sorted((*CHOICES, "containers", "inject")))
            raise NotInjected(f"{name}: no such annotation; after {PREFIX} there can be {known}")
    return Wish(containers, settings)


def _chosen(name: str, text: str, patterns: Sequence[str]) -> str:
    try:
        value = CHOICES[name.removeprefix(PREFIX)](text)
    except ValueError as error:
        raise NotInjected(f"{name}: {error}") from None
    values = value if isinstance(value, tuple) else (value,)
    if not values:
        raise NotInjected(f"{name}: expected a value, found {text!r}")
    for one in values:
        if not any(fnmatchcase(one, pattern) for pattern in patterns):
            permitted = ", ".join(patterns) or "none"
            raise NotInjected(
                f"{name}: {one!r} is not permitted here; the injection template permits {permitted}"
            )
    return ",".join(values)
