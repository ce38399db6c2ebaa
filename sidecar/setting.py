"""What is known of one setting, and what is said of settings that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar.values import duration_text, size_text, switch_text


@dataclass(frozen=True)
class Setting:
    """How a setting is read, written, and explained in the help of its flag."""

    read: Callable[[object], Any]
    default: object
    text: str
    metavar: str
    group: str

    def written(self, value: object) -> object:
        """Return the value as people write it, of types that YAML has."""
        if isinstance(value, bool):
            return switch_text(value)
        if self.metavar == "DURATION" and isinstance(value, float):
            return duration_text(value)
        if self.metavar == "SIZE" and isinstance(value, int):
            return size_text(value)
        if isinstance(value, tuple):
            return list(value)
        return str(value) if isinstance(value, Path) else value


class WrongSettings(ValueError):
    """Settings that cannot be used; ``problems`` has setting and reason, "" for several."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in problems))
        self.problems = problems


def setting(
    read: Callable[[object], Any], default: object, text: str, metavar: str, group: str
) -> Any:  # noqa: ANN401  as field
    """Return the field of a dataclass for a setting; None as default is not read."""
    return field(
        default=None if default is None else read(default),
        metadata={"setting": Setting(read, default, text, metavar, group)},
    )
