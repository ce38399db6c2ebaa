"""What the kubelet makes of a container's variables and command.

https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
and k8s.io/kubernetes/third_party/forked/golang/expansion: ``$(NAME)`` becomes the value of a
variable that is known, ``$$`` becomes ``$``, all else stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")
_ANNOTATION = re.compile(r"metadata\.annotations\['(.+)'\]")


def expanded(text: str, known: Mapping[str, str]) -> str:
    """Return the text with references to known variables replaced, once."""

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else known.get(match[1], match[0])

    return _REFERENCE.sub(replacement, text)


def environment(
    entries: Sequence[Mapping[str, Any]], annotations: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the variables of a container; each may refer to those before it."""
    found: dict[str, str] = {}
    for entry in entries:
        source = entry.get("valueFrom")
        if source:
            match = _ANNOTATION.fullmatch(source["fieldRef"]["fieldPath"])
            assert match, source
            found[entry["name"]] = (annotations or {}).get(match[1], "")
        else:
            found[entry["name"]] = expanded(str(entry.get("value", "")), found)
    return found
