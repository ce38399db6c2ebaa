"""containerd's filter language for List.

Grammar (containerd, package `pkg/filters`): a filter is a list of selectors separated by commas,
all of which must match; a selector is a field path, alone (the field is present) or with `==`,
`!=` or `~=` and a value. Path elements and values may be quoted as in Go; after `~=` also with
`/` or `|`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FieldLookup = Callable[[Sequence[str]], str | None]
"""Value of a field path of the object at hand, None when it has no such field."""

_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_SPACE = re.compile(r"\s*")
_VALUE_REST = re.compile(r"[^,\s]*")
_SIMPLE_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\",
}  # fmt: skip
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


class FilterSyntaxError(ValueError):
    """The expression is not of the filter language; the text says where and what was expected."""


@dataclass(frozen=True)
class Selector:
    """One condition. `operator` is empty for presence."""

    path: tuple[str, ...]
    operator: str = ""
    value: str = ""
    pattern: re.Pattern[str] | None = None

    def matches(self, lookup: FieldLookup) -> bool:
        """An absent field has the empty value for `!=` and `~=`, and equals nothing."""
        found = lookup(self.path)
        if self.operator == "==":
            return found is not None and found == self.value
        if self.operator == "!=":
            return (found or "") != self.value
        if self.operator == "~=":
            return self.pattern is not None and self.pattern.search(found or "") is not None
        return found is not None


@dataclass(frozen=True)
class Filter:
    """Alternatives, each a conjunction of selectors. No alternative at all matches everything."""

    alternatives: tuple[tuple[Selector, ...], ...]

    def matches(self, lookup: FieldLookup) -> bool:
        """Whether one of the alternatives matches the object."""
        if not self.alternatives:
            return True
        return any(all(s.matches(lookup) for s in selectors) for selectors in self.alternatives)


def parse_all(expressions: Sequence[str]) -> Filter:
    """The filter that matches what any of the expressions matches.

    Raises FilterSyntaxError. An empty expression matches everything, and so does no expression.
    """
    return Filter(tuple(_Parser(text).selectors() if text else () for text in expressions))


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def selectors(self) -> tuple[Selector, ...]:
        found = [self._selector()]
        while self._at < len(self._text):
            if self._text[self._at] != ",":
                raise self._error("expected a comma")
            self._at += 1
            found.append(self._selector())
        return tuple(found)

    def _selector(self) -> Selector:
        path = [self._field()]
        while self._peek() == ".":
            self._at += 1
            path.append(self._field())
        if self._peek() in ("", ","):
            return Selector(tuple(path))
        operator = self._operator()
        value = self._value(any_quote=operator == "~=")
        return Selector(tuple(path), operator, value, _compile(operator, value))

    def _field(self) -> str:
        self._skip_space()
        if self._peek() in ('"', "/", "|"):
            return self._quoted(any_quote=False)
        match = _FIELD.match(self._text, self._at)
        if match is None:
            raise self._error("expected a field name or a quoted one")
        self._at = match.end()
        return match.group()

    def _operator(self) -> str:
        self._skip_space()
        match = _OPERATOR.match(self._text, self._at)
        if match is None or match.group() not in ("==", "!=", "~="):
            raise self._error('expected an operator ("==", "!=" or "~=")')
        self._at = match.end()
        return match.group()

    def _value(self, *, any_quote: bool) -> str:
        self._skip_space()
        first = self._peek()
        if first in ('"', "/", "|"):
            return self._quoted(any_quote=any_quote)
        if first in ("", ",", "."):
            raise self._error("expected a value or a quoted one")
        match = _VALUE_REST.match(self._text, self._at)
        assert match is not None  # the pattern matches the empty string
        self._at = match.end()
        return match.group()

    def _quoted(self, *, any_quote: bool) -> str:
        quote = self._peek()
        if quote != '"' and not any_quote:
            raise self._error("this quote is for regular expressions only")
        self._at += 1
        out = bytearray()
        while self._peek() != quote:
            char = self._take()
            if char == "\n":
                raise self._error("quoted text is not terminated")
            out += self._escape(quote) if char == "\\" else char.encode()
        self._at += 1
        return out.decode(errors="replace")

    def _escape(self, quote: str) -> bytes:
        char = self._take()
        if char == quote:
            return char.encode()
        if char in _SIMPLE_ESCAPES:
            return _SIMPLE_ESCAPES[char].encode()
        if char in _HEX_DIGITS:
            code = self._number("".join(self._take() for _ in range(_HEX_DIGITS[char])), 16)
            # \x names a byte, the others a character.
            return bytes([code]) if char == "x" else self._character(code)
        if char in "01234567":
            return bytes([self._number(char + self._take() + self._take(), 8) & 0xFF])
        raise self._error("illegal escape sequence")

    def _number(self, digits: str, base: int) -> int:
        try:
            return int(digits, base)
        except ValueError:
            raise self._error("illegal numeric escape sequence") from None

    def _character(self, code: int) -> bytes:
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise self._error("escape sequence is not a character")
        return chr(code).encode()

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None  # the pattern matches the empty string
        self._at = match.end()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise self._error("quoted text is not terminated")
        self._at += 1
        return char

    def _error(self, message: str) -> FilterSyntaxError:
        return FilterSyntaxError(f"filter {self._text!r}, character {self._at + 1}: {message}")


def _compile(operator: str, value: str) -> re.Pattern[str] | None:
    if operator != "~=":
        return None
    try:
        return re.compile(value)
    except re.error:
        # containerd finds this out while it matches, and then nothing matches.
        return None
