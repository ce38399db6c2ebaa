"""What is known of one setting, and what is said of settings that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from buildsvc.values import duration_text, size_text, switch_text

_SERVICE_LINK = re.compile(r"(^|_)SERVICE_(HOST|PORT\w*)$|(^|_)PORT(_\d+_(TCP|UDP|SCTP)\w*)?$")


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


def settings_of(kind: type) -> Mapping[str, Setting]:
    """Return every setting of a dataclass by name, in the order of the help."""
    return {one.name: one.metadata["setting"] for one in fields(kind) if one.metadata}


def read_values(
    known: Mapping[str, Setting], values: Mapping[str, object]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the values that can be read, and of each other its name and what is wrong with it."""
    read: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for name, value in values.items():
        try:
            read[name] = known[name].read(value)
        except ValueError as error:
            problems.append((name, str(error)))
    return read, problems


def flag_name(setting: str) -> str:
    """Return the flag of a setting."""
    return "--" + setting.replace("_", "-")


def is_service_link(name: str) -> bool:
    """Whether the rest of a variable's name, without our prefix, is one that Kubernetes makes.

    It puts the address of each service of a namespace into every pod: a service named "buildsvc"
    must not make settings unknown.
    """
    return _SERVICE_LINK.search(name) is not None


@dataclass
class Collected:
    """Values by setting, of those that are ``known``; the first source that has one wins."""

    known: Mapping[str, Setting]
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def offer(self, name: str, value: object, origin: str) -> None:
        """Take a value, unless an earlier source had one; ``origin`` is for people."""
        if name not in self.known:
            near = get_close_matches(name, self.known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.problems.append(f"{origin}: no such setting{hint}")
        elif name not in self.values:
            self.values[name] = value
            self.origins[name] = origin

    def offer_variables(self, environ: Mapping[str, str], prefix: str) -> None:
        """Take the variables with a prefix. Empty is how templates leave one out."""
        for variable, text in sorted(environ.items()):
            name = variable.removeprefix(prefix)
            known = name.lower() in self.known
            if name != variable and (text if known else not is_service_link(name)):
                self.offer(name.lower(), text, variable)

    def complain(self, wrong: WrongSettings) -> None:
        """Take what is wrong with values, each with its origin."""
        self.problems += [
            f"{self.origins.get(name, name)}: {reason}" if name else reason
            for name, reason in wrong.problems
        ]
