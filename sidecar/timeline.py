"""What happened in a pod and when: a bounded list of spans."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

from buildsvc.redact import redacted_text

Attribute = str | int | float | bool | None


class Kind(StrEnum):
    """What a span is about."""

    RESTORE = "restore"
    DAEMON = "daemon"
    FETCH = "fetch"
    BUILD = "build"
    CHECKPOINT = "checkpoint"
    UPLOAD = "upload"
    PUBLISH = "publish"
    COLD = "cold"


# Kinds of which there can be thousands; their oldest go first when the timeline is full.
_PLENTIFUL = frozenset({Kind.FETCH, Kind.UPLOAD})


class Recorder(Protocol):
    """Who keeps the time and hears of changes: the status."""

    def now(self) -> float:
        """Seconds since the sidecar's start."""

    def span_changed(self, span: Span) -> None:
        """The span has other attributes."""

    def span_ended(self, span: Span) -> None:
        """The span is over; called once."""


class Span:
    """Something that takes time. Times are seconds since the sidecar's start.

    ``revision`` is the status' version at the last change, so that a reader who saw version n
    needs only the spans above n.
    """

    def __init__(
        self, recorder: Recorder, id_: int, kind: Kind, name: str, attributes: dict[str, Attribute]
    ) -> None:
        self._recorder = recorder
        self.id = id_
        self.kind = kind
        self.name = name
        self.attributes = _shown(attributes)
        self.begin = recorder.now()
        self.finish: float | None = None
        self.outcome = ""
        self.revision = 0

    def note(self, **attributes: Attribute) -> None:
        """Add to or change the attributes, such as ``why`` when an object becomes demanded."""
        self.attributes |= _shown(attributes)
        self._recorder.span_changed(self)

    def end(self, outcome: str = "ok", **attributes: Attribute) -> None:
        """Say that it is over, and how. Only the first call counts."""
        if self.finish is not None:
            return
        self.finish = self._recorder.now()
        self.outcome = outcome
        self.attributes |= _shown(attributes)
        self._recorder.span_ended(self)

    @property
    def seconds(self) -> float:
        """How long it has taken so far, or took."""
        return (self._recorder.now() if self.finish is None else self.finish) - self.begin

    def shown(self) -> dict[str, object]:
        """Return it ready for JSON; attributes stand beside the span's own fields."""
        return {
            **self.attributes,
            "id": self.id,
            "kind": self.kind.value,
            "name": self.name,
            "begin": round(self.begin, 4),
            "end": None if self.finish is None else round(self.finish, 4),
            "outcome": self.outcome,
        }


def _shown(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    """Mask secrets in texts, such as a store's URL in an error."""
    return {
        key: redacted_text(value) if isinstance(value, str) else value
        for key, value in attributes.items()
    }


class Timeline:
    """The newest ``limit`` spans in the order in which they began."""

    def __init__(self, limit: int = 4000) -> None:
        self._limit = limit
        self._spans: dict[int, Span] = {}
        self._last_id = 0
        self.dropped = 0

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans.values())

    def next_id(self) -> int:
        """Return an id that no span has had."""
        self._last_id += 1
        return self._last_id

    def add(self, span: Span) -> None:
        """Append a span, dropping the least interesting one when there is no room."""
        if len(self._spans) >= self._limit:
            del self._spans[self._victim()]
            self.dropped += 1
        self._spans[span.id] = span

    def _victim(self) -> int:
        ended = [span for span in self if span.finish is not None]
        plentiful = (span.id for span in ended if span.kind in _PLENTIFUL)
        oldest = next(iter(self._spans))
        return next(plentiful, ended[0].id if ended else oldest)
