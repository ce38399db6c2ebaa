"""The kinds of options that only the step has: how each is read and checked.

As in :mod:`buildsvc.values`, what reads one raises ValueError that says what was expected.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

from buildsvc.templates import parse_template
from buildsvc.values import listed, parse_text

_T = TypeVar("_T")

#: Words that a template of a name may have in braces.
TOLD = (
    *("repository", "branch", "target_branch", "default_branch"),
    *("tag", "commit", "short_commit", "build"),
)
FILE_OUTPUTS = ("oci", "docker", "tar", "local")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"secret|token|passw")
_PLATFORM = re.compile(r"[a-z0-9]+(/[a-z0-9]+){0,2}")
_HOST = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")


def lines(read: Callable[[object], _T]) -> Callable[[object], tuple[_T, ...]]:
    """Return what reads a list; a variable has one value a line."""

    def read_all(value: object) -> tuple[_T, ...]:
        if isinstance(value, str):
            value = [line.strip() for line in value.splitlines()]
        return tuple(read(item) for item in listed(value) if item)

    return read_all


def words(read: Callable[[object], _T]) -> Callable[[object], tuple[_T, ...]]:
    """Return what reads a list of values that have neither commas nor spaces in them."""

    def read_all(value: object) -> tuple[_T, ...]:
        items = [value] if isinstance(value, str) else listed(value)
        split = [word for item in items for word in re.split(r"[,\s]+", str(item)) if word]
        return tuple(read(word) for word in split)

    return read_all


def parse_name_template(value: object) -> str:
    """Return a template of a repository or tag as it is."""
    text = parse_text(value)
    parse_template(text, TOLD)
    return text


def parse_registry(value: object) -> str:
    """Return HOST[:PORT] of a registry."""
    text = parse_text(value)
    if not _HOST.fullmatch(text):
        raise ValueError(f"expected HOST or HOST:PORT, without https:// and path, found {text!r}")
    return text


def parse_pair(value: object) -> str:
    """Return NAME=VALUE."""
    text = parse_text(value)
    name, equals, _ = text.partition("=")
    if not name.strip() or not equals:
        raise ValueError(f"expected NAME=VALUE, found {text!r}")
    return text


def parse_build_arg(value: object) -> str:
    """Return NAME=VALUE, or NAME of a variable."""
    text = parse_text(value)
    if not _NAME.fullmatch(text.partition("=")[0]):
        # Not the text: whoever confuses options may have written a secret.
        raise ValueError("expected NAME=VALUE or NAME; a name has letters, digits and _")
    return text


def fields_of(text: str) -> dict[str, str]:
    """Return what BuildKit reads in ``type=oci,dest=a.tar``: CSV of NAME=VALUE.

    Raises ValueError.
    """
    try:
        row = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{error}, in {text!r}") from None
    pairs = [field.partition("=") for field in row]
    if not row or any(not name or not equals for name, equals, _ in pairs):
        raise ValueError(f"expected NAME=VALUE, separated by commas, found {text!r}")
    return {name.strip().lower(): value for name, _, value in pairs}


def fields_text(fields: Mapping[str, str]) -> str:
    """Write fields so that BuildKit, and :func:`fields_of`, read them back."""
    written = []
    for name, value in fields.items():
        field = f"{name}={value}"
        if any(character in field for character in ',"\r\n') or field != field.strip():
            field = '"' + field.replace('"', '""') + '"'
        written.append(field)
    return ",".join(written)


def _fields(value: object, known: Mapping[str, str], example: str) -> dict[str, str]:
    text = parse_text(value)
    try:
        found = fields_of(text)
    except ValueError:
        raise ValueError(f"expected {example}, found {text!r}") from None
    for name in found:
        if name not in known:
            raise ValueError(f"expected {example}, found {name}= in {text!r}")
    return found


def parse_secret(value: object) -> str:
    """Return id=NAME with src=FILE or env=VARIABLE, as buildctl takes it."""
    example = "id=NAME,src=FILE or id=NAME,env=VARIABLE"
    found = _fields(value, {"id": "", "src": "", "env": ""}, example)
    if not found.get("id") or ("src" in found) == ("env" in found):
        raise ValueError(f"expected {example}, found {parse_text(value)!r}")
    if "env" in found and not _NAME.fullmatch(found["env"]):
        raise ValueError(f"expected the name of a variable in {example}")
    return fields_text(found)


def parse_ssh(value: object) -> str:
    """Return what buildctl takes: ID, or ID=SOCKET, or ID=KEY,KEY."""
    text = parse_text(value)
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(=.+)?", text):
        raise ValueError(f"expected default, ID=SOCKET or ID=KEY, found {text!r}")
    return text


def parse_platform(value: object) -> str:
    """Return a platform such as linux/amd64."""
    text = parse_text(value)
    if not _PLATFORM.fullmatch(text):
        raise ValueError(f"expected OS/ARCH[/VARIANT], such as linux/arm64, found {text!r}")
    return text


def parse_output(value: object) -> str:
    """Return an output to a file or directory: type=oci,dest=FILE and other fields."""
    text = parse_text(value)
    example = f"type={'|'.join(FILE_OUTPUTS)},dest=PATH"
    try:
        found = fields_of(text)
    except ValueError:
        raise ValueError(f"expected {example}, found {text!r}") from None
    if found.get("type") not in FILE_OUTPUTS:
        raise ValueError(f"expected {example}, found {text!r}; to push, use --repository")
    if not found.get("dest") or found["dest"] == "-":
        # Of the step's standard output nobody knows that it is an archive.
        raise ValueError(f"expected a file or directory in dest=, found {text!r}")
    return text


def parse_cache(value: object) -> str:
    """Return a cache as BuildKit describes it: type=registry,ref=REFERENCE and the like."""
    text = parse_text(value)
    example = "type=registry,ref=REFERENCE or another type of BuildKit's"
    try:
        found = fields_of(text)
    except ValueError:
        raise ValueError(f"expected {example}, found {text!r}") from None
    if not found.get("type"):
        raise ValueError(f"expected {example}, found {text!r}")
    for name in found:
        if _SECRET.search(name):
            # It would be on buildctl's command line. Not the text, which has it.
            raise ValueError(
                f"expected {example}, found {name}=, which other processes could read; a cache in "
                "a registry takes the registry's credentials"
            )
    return text


def parse_sbom(value: object) -> str:
    """Return ``off``, ``on``, or ``generator=IMAGE``."""
    text = "on" if value is True else "off" if value is False else parse_text(value)
    if text not in ("on", "off") and not re.fullmatch(r"generator=\S+", text):
        raise ValueError(f"expected on, off or generator=IMAGE, found {text!r}")
    return text


def parse_address(value: object) -> str:
    """Return the URL of BuildKit's endpoint, as buildctl takes it."""
    text = parse_text(value)
    there: str | int | None = None
    with suppress(ValueError):
        parts = urlsplit(text)
        there = {"unix": parts.path, "tcp": parts.port}.get(parts.scheme)
    if not there:
        raise ValueError(f"expected tcp://HOST:PORT or unix:///PATH, found {text!r}")
    return text


def parse_status_url(value: object) -> str:
    """Return the base of the sidecar's status pages, or ``off``."""
    if value is False or value == "off":
        return "off"
    text = parse_text(value)
    if not re.fullmatch(r"https?://[^/\s@?#]+/?", text):
        raise ValueError(f"expected http://HOST:PORT or off, found {text!r}")
    return text.rstrip("/")
