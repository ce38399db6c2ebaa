"""The table of a chart's values, made of the comments in its values.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?P<rest>.*)$")
_STEP = 2


@dataclass(frozen=True)
class Value:
    """One value: its path (``image.tag``), what the comment says, and its default."""

    path: str
    text: str
    default: Any


def described(text: str) -> Iterator[Value]:
    """Yield every value with a comment above it, in order.

    Raises ValueError for a value in a section that has none: each one is explained.
    """
    defaults = yaml.safe_load(text)
    comment: list[str] = []
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        found = _KEY.match(line)
        if found and len(found["indent"]) == 0:
            section = found["key"]
        elif found and len(found["indent"]) == _STEP:
            if not comment:
                raise ValueError(f"values.yaml:{number}: {section}.{found['key']} has no comment")
            default = defaults[section][found["key"]]
            yield Value(f"{section}.{found['key']}", " ".join(comment), default)
        comment = []


def table(text: str) -> str:
    """Return the rows as Markdown, with the heading."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{one.path}` | {_shown(one.default)} | {one.text.replace('|', chr(92) + '|')} |"
        for one in described(text)
    ]
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:  # noqa: ANN401  whatever YAML has
    """Short defaults as they are, long ones are looked up in the file."""
    if default in ("", [], {}):
        return "none"
    written = default if isinstance(default, str) else json.dumps(default)
    return f"`{written}`" if len(written) <= 40 and "\n" not in written else "see values.yaml"
