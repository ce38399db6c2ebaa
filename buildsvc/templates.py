"""Templates such as ``{repository}/{branch}``: what is in one, and what a CI system fills in.

Words in braces stand for what :mod:`buildsvc.ci` tells, ``{env:NAME}`` for a variable, ``{{`` and
``}}`` for braces. How a value is written is for those to say who know what the text is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from buildsvc.ci import SYSTEMS, Fact, system_of
from buildsvc.errors import ConfigError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Place:
    """Text, and the placeholder behind it: "" at the end, ``env:NAME`` for a variable."""

    text: str
    placeholder: str


def parse_template(text: str, told: Sequence[str]) -> list[Place]:
    """Return what the template is made of; ``told`` are the words that it may have in braces.

    Raises ValueError for braces that do not match, and for other words.
    """
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; write {{{{ and }}}} for braces") from None
    places: list[Place] = []
    before = ""
    for literal, name, spec, conversion in parsed:
        before += literal
        if name is None:
            continue
        places.append(Place(before, _placeholder(text, told, name, spec or "", conversion)))
        before = ""
    return [*places, Place(before, "")]


def _placeholder(
    text: str, told: Sequence[str], name: str, spec: str, conversion: str | None
) -> str:
    if not conversion and name in told and not spec:
        return name
    if not conversion and name == "env" and _VARIABLE.fullmatch(spec):
        return f"env:{spec}"
    found = name + f"!{conversion}" * bool(conversion) + f":{spec}" * bool(spec)
    known = ", ".join(f"{{{one}}}" for one in told)
    raise ValueError(f"{text!r}: expected {known} or {{env:NAME}}, found {{{found}}}")


def told_fact(what: str, placeholder: str, variables: Mapping[str, str], container: str) -> Fact:
    """Return what a placeholder stands for in this build.

    ``what`` cannot be filled in without it, ``container`` is where its variable belongs: both for
    the error. Raises ConfigError when it is not told.
    """
    problem = f"{what} cannot be filled in"
    if placeholder.startswith("env:"):
        variable = placeholder.removeprefix("env:")
        if variables.get(variable):
            return Fact(variables[variable])
        raise ConfigError(
            problem, expected=f"the variable {variable}", found="it is not set, or empty",
            advice=f"set it for {container}",
        )  # fmt: skip
    system = system_of(variables)
    if system is None:
        marks = _listed(mark for one in SYSTEMS for mark in one.marks)
        raise ConfigError(
            problem, expected=f"variables of {_listed(one.name for one in SYSTEMS)}",
            found=f"none of {marks}", advice=f"set them for {container}, or write "
            f"{{env:NAME}} instead of {{{placeholder}}}",
        )  # fmt: skip
    fact = system.tells(placeholder, variables)
    if fact is not None:
        return fact
    source = system.sources.get(placeholder)
    raise ConfigError(
        problem,
        expected=f"{source.needs} for {{{placeholder}}}" if source else "",
        found=f"{system.name}, which does not tell it" + " in this build" * bool(source),
        advice=f"set it for {container}, or " * bool(source)
        + f"write {{env:NAME}} instead of {{{placeholder}}}",
    )


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
