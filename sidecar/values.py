"""The types of settings: how each kind is read from text, checked, and written back."""

from __future__ import annotations

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from sidecar.endpoint import parse_address

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}


def parse_duration(value: object) -> float:
    """Return seconds; ``90``, ``90s``, ``1m30s``, ``250ms`` and ``1.5h`` are understood."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is not a duration; write 20s, 10m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def duration_text(seconds: float) -> str:
    """Write seconds so that :func:`parse_duration` reads them back."""
    return f"{seconds:.10g}s"


def parse_size(value: object) -> int:
    """Return bytes; ``20GB`` counts in thousands, ``512MiB`` in 1024s, a number in bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"{value!r} is not a size; write 512MiB or 20GB")
    return int(float(match[1]) * _BYTES[match[2]])


def size_text(count: int) -> str:
    """Write bytes in the largest unit that gives a whole number."""
    for unit, bytes_ in sorted(_BYTES.items(), key=lambda item: -item[1]):
        if count and bytes_ > 1 and count % bytes_ == 0:
            name = unit.upper().replace("IB", "iB").replace("KB", "kB")
            return f"{count // bytes_}{name}"
    return str(count)


def _switch(value: object) -> bool:
    words = {"on": True, "true": True, "yes": True, "1": True}
    words |= {"off": False, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError(f"{value!r} is no switch; write on or off")


def _switch_text(value: bool) -> str:  # noqa: FBT001  pydantic calls it
    return "on" if value else "off"


def _yaml_switch(value: object) -> object:
    """Give back the word that YAML 1.1 reads as a boolean."""
    return _switch_text(value) if isinstance(value, bool) else value


def _absolute(path: Path) -> Path:
    # Not resolve(): a symbolic link is the user's choice, and is looked at when it is used.
    return Path(os.path.abspath(path.expanduser()))


def _listen(text: str) -> str:
    return str(parse_address(text))


def _http_listen(text: str) -> str:
    return "off" if text.strip().lower() in ("off", "false") else str(parse_address(text))


def _name(text: str) -> str:
    if not re.fullmatch(r"[^\x00-\x20\x7f]{1,200}", text):
        raise ValueError(f"{text!r} is no name; write 1 to 200 characters without spaces")
    return text


def _words(value: object) -> object:
    """Split what the environment or a YAML scalar gives as one string, at commas."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return value


def _network(text: str) -> str:
    return str(ip_network(text, strict=False))


Duration = Annotated[
    float, BeforeValidator(parse_duration), PlainSerializer(duration_text, return_type=str)
]
"""Seconds, written as ``20s``, ``1.5m`` or ``1h30m``."""

Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(size_text, return_type=str)]
"""Bytes, written as ``512MiB`` (powers of 1024) or ``20GB`` (powers of 1000)."""

OnOff = Annotated[bool, BeforeValidator(_switch), PlainSerializer(_switch_text, return_type=str)]
"""A switch, written as ``on`` or ``off``; YAML's booleans are understood."""

Local = Annotated[Path, AfterValidator(_absolute)]
"""A path, made absolute where it is read; ``~`` is the user's home."""

Listen = Annotated[str, AfterValidator(_listen)]
HttpListen = Annotated[str, BeforeValidator(_yaml_switch), AfterValidator(_http_listen)]
TlsMode = Annotated[Literal["auto", "on", "off"], BeforeValidator(_yaml_switch)]
Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_words)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_words)]
