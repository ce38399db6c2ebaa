"""CI variables that go from a pod's container to the sidecar, which names its cache after them.

The kubelet replaces ``$(NAME)`` in the values of a container's environment by what was set before
in the same container, and ``$$`` by ``$``. A value that is copied must mean the same in another
container, so it is worked out here and written so that nothing in it is replaced again.
https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from buildsvc.webhook.errors import NotInjected

#: ``$$``, a reference, or an opening without an end, which stays as it is.
_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")

#: Sources of values that are the same in each container of a pod.
_OF_THE_POD = ("fieldRef", "configMapKeyRef")


def literal(text: str) -> str:
    """Return the value that the kubelet turns into ``text``."""
    return text.replace("$", "$$")


def copied(containers: Sequence[Mapping[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    """Return entries for another container's ``env``: those of ``names`` that are set.

    All of them come from one container, the first that has any: half of what one knows of a build
    and half of what another one knows would be a third build.

    Raises:
        NotInjected: a value cannot be known in another container.
    """
    wanted = frozenset(names)
    for container in containers:
        entries = _entries(container)
        if any(_is_set(entry) and entry["name"] in wanted for entry in entries):
            return _of(container, entries, wanted)
    return []


def _entries(container: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(container.get("env") or ())


def _is_set(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("value") or entry.get("valueFrom"))


def _of(
    container: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], wanted: frozenset[str]
) -> list[dict[str, Any]]:
    known: dict[str, str | None] = {}
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name, source = str(entry["name"]), entry.get("valueFrom")
        value = None if source else _expanded(str(entry.get("value") or ""), known)
        known[name] = value
        if name not in wanted:
            continue
        if value is not None:
            found[name] = {"name": name, "value": literal(value)}
        elif source and any(source.get(kind) for kind in _OF_THE_POD):
            found[name] = {"name": name, "valueFrom": source}
        else:
            raise NotInjected(
                f"the variable {name} of container {container.get('name')} comes from a secret, a "
                "resource or a variable that is not known yet; the sidecar needs it: write it out"
            )
    return list(found.values())


def _expanded(text: str, known: Mapping[str, str | None]) -> str | None:
    """Return the value as the kubelet makes it; None where it depends on what is not known."""
    unknown = False

    def replacement(match: re.Match[str]) -> str:
        nonlocal unknown
        if match[0] == "$$":
            return "$"
        value = known.get(match[1])
        # Not set here does not mean not set: envFrom and services of the namespace set some too.
        unknown = unknown or value is None
        return value or ""

    expanded = _REFERENCE.sub(replacement, text)
    return None if unknown else expanded
