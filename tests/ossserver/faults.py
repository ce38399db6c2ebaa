"""What goes wrong between a client and OSS, by a script."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping


@dataclass(frozen=True)
class Reset:
    """The connection breaks before anything is done."""


@dataclass(frozen=True)
class LoseAnswer:
    """It is done, and the connection breaks before the answer."""


@dataclass(frozen=True)
class Say:
    """Nothing is done; this error is the answer."""

    status: int
    code: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """The answer's body ends after ``keep`` bytes, although its head promised all."""

    keep: int


@dataclass(frozen=True)
class Flip:
    """A bit of the body is inverted: of what is stored, or of what is answered."""


@dataclass(frozen=True)
class Hold:
    """Set ``reached``, wait for ``go``, then do it."""

    go: asyncio.Event
    reached: asyncio.Event


Fault = Reset | LoseAnswer | Say | Cut | Flip | Hold


class Script:
    """Faults in the order in which they happen to the requests of a kind."""

    def __init__(self) -> None:
        self._faults: list[tuple[str, Fault]] = []

    def add(self, kind: str, *faults: Fault) -> None:
        """Let them happen to the next requests of this kind.

        It is a method and, of requests to the bucket, its parameter: ``PUT``, ``GET ?versioning``.
        """
        self._faults.extend((kind, fault) for fault in faults)

    def next(self, kind: str) -> Fault | None:
        """What happens to a request of this kind now."""
        for index, (of, fault) in enumerate(self._faults):
            if of == kind:
                del self._faults[index]
                return fault
        return None
