"""The kinds of settings: how each is read from text, checked, and written back.

What reads a value takes what a flag, a variable or YAML gives, and raises ValueError that says
what was expected.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

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
        return _finite(value, 1.0)
    text = str(value).strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return _finite(text, 1.0)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is not a duration; write 20s, 10m or 1h30m")
    return _finite(sum(_finite(number, _SECONDS[unit]) for number, unit in parts), 1.0)


def _finite(number: str | float, unit: float) -> float:
    """Return the product. Raises ValueError when there is no number for it."""
    try:
        product = float(number) * unit
    except OverflowError:
        product = math.inf
    if not math.isfinite(product):
        raise ValueError(f"{str(number)[:20]} is too much, or no number")
    return product


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
    return int(_finite(match[1], _BYTES[match[2]]))


def size_text(count: int) -> str:
    """Write bytes in the largest unit that gives a whole number."""
    for unit, bytes_ in sorted(_BYTES.items(), key=lambda item: -item[1]):
        if count and bytes_ > 1 and count % bytes_ == 0:
            name = unit.upper().replace("IB", "iB").replace("KB", "kB")
            return f"{count // bytes_}{name}"
    return str(count)


def parse_switch(value: object) -> bool:
    """Return whether it is on; YAML's booleans are understood."""
    words = {"on": True, "true": True, "yes": True, "1": True}
    words |= {"off": False, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError(f"{value!r} is no switch; write on or off")


def switch_text(on: bool) -> str:  # noqa: FBT001  the value that is written
    """Write a switch so that :func:`parse_switch` reads it back."""
    return "on" if on else "off"


def parse_text(value: object) -> str:
    """Return the text as it is."""
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {value!r}")  # noqa: TRY004  of the user's
    return value


def parse_program(value: object) -> str:
    """Return the name or path of a program."""
    text = parse_text(value)
    if not text:
        raise ValueError("expected a name or a path, found ''")
    return text


def parse_integer(value: object) -> int:
    """Return a number that is written as one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not re.fullmatch(r"[+-]?\d+", str(value).strip()):
        raise ValueError(f"expected a whole number, found {value!r}")
    return int(str(value))


def parse_path(value: object) -> Path:
    """Return the path, made absolute; ``~`` is the user's home."""
    text = str(value) if isinstance(value, Path) else parse_text(value)
    if not text:
        # It would be the current directory.
        raise ValueError("expected a path, found ''")
    # Not resolve(): a symbolic link is the user's choice, and is looked at when it is used.
    return Path(os.path.abspath(os.path.expanduser(text)))


def parse_name(value: object) -> str:
    """Return a name of 1 to 200 characters."""
    text = parse_text(value)
    if not re.fullmatch(r"[^\x00-\x20\x7f]{1,200}", text):
        raise ValueError(f"{text!r} is no name; write 1 to 200 characters without spaces")
    return text


def listed(value: object) -> list[object]:
    """Return the items of a list that YAML or repeated flags gave. Raises ValueError."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list, found {value!r}")  # noqa: TRY004  of the user's
    return list(value)


def several(read: Callable[[object], _T]) -> Callable[[object], tuple[_T, ...]]:
    """Return what reads a list; the environment and a YAML scalar separate by commas."""

    def read_all(value: object) -> tuple[_T, ...]:
        if isinstance(value, str):
            value = [word.strip() for word in value.split(",") if word.strip()]
        return tuple(read(item) for item in listed(value))

    return read_all


def one_of(*words: str) -> Callable[[object], str]:
    """Return what reads one of these words, ``on`` and ``off`` also as YAML's booleans."""

    def read(value: object) -> str:
        word = switch_text(value) if isinstance(value, bool) else value
        if word not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}, found {value!r}")
        return str(word)

    return read


def between(
    read: Callable[[object], float], least: str, most: str = ""
) -> Callable[[object], float]:
    """Return what reads a number from ``least`` to ``most``, which ``read`` reads too."""

    def read_bounded(value: object) -> float:
        found = read(value)
        # Not the other way round: nothing can be said of a number that is none.
        if not (read(least) <= found and (not most or found <= read(most))):
            limits = f"at least {least}" + (f" and at most {most}" if most else "")
            raise ValueError(f"expected {limits}, found {value!r}")
        return found

    return read_bounded
