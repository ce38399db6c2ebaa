"""What the sidecar's status page says, of that what the step acts on or shows.

docs/operations.md describes the page (schema 1).
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Protocol

SCHEMA = 1
_SECONDS = 5.0
#: No version is as high, so that nothing of the timeline has changed since.
_NO_TIMELINE = f"?since={10**18}"


@dataclass(frozen=True)
class BuildSeen:
    """A build that the daemon told of. ``outcome`` is empty while it runs, then ok or failed."""

    outcome: str
    error: str
    steps_cached: int | None
    steps_total: int | None


@dataclass(frozen=True)
class Seen:
    """The status at one moment. Times are Unix seconds."""

    phase: str
    ready: bool
    started_unix: float = 0.0
    waiting_for: str = ""
    roots_lost: int = 0
    run_again: bool = False
    advice_unix: float = 0.0
    advice_detail: str = ""
    cold_build_seconds: float = 0.0
    objects: Mapping[str, int] = field(default_factory=dict)
    fetched_bytes: int = 0
    builds: Mapping[str, BuildSeen] = field(default_factory=dict)


class StatusPage(Protocol):
    """Where the status is read."""

    async def read(self, *, builds: bool = True) -> Seen | None:
        """Return the status; None where nobody, or something else, answers.

        Without ``builds`` it costs the sidecar less, which has work to do while it is waited for.
        """


class NoStatus:
    """For ``--status-url=off``."""

    async def read(self, *, builds: bool = True) -> Seen | None:  # noqa: ARG002  the Protocol's
        """Return that nobody answers."""
        return None


class HttpStatus:
    """The page below ``url`` (scheme, host and port)."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/status"
        # It is in this pod: no proxy leads to it.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    async def read(self, *, builds: bool = True) -> Seen | None:
        """See :class:`StatusPage`."""
        return await asyncio.to_thread(self._read, self._url + _NO_TIMELINE * (not builds))

    def _read(self, url: str) -> Seen | None:
        try:
            with self._opener.open(url, timeout=_SECONDS) as answer:
                return seen(json.loads(answer.read()))
        except (OSError, HTTPException, ValueError):
            return None


def seen(status: object) -> Seen | None:
    """Return what of a status page's JSON is acted on; None for other JSON, or another schema."""
    if not isinstance(status, dict) or status.get("schema") != SCHEMA:
        return None
    try:
        return _seen(status)
    except (KeyError, TypeError, AttributeError):
        return None


def _seen(status: Mapping[str, Any]) -> Seen:
    advice, restored = status["advice"], status["restored"] or {}
    return Seen(
        phase=status["phase"],
        ready=status["ready"],
        started_unix=status["started_unix"],
        waiting_for=status["waiting_for"] or "",
        roots_lost=status["counts"].get("roots_lost", 0),
        run_again=advice["what"] == "run-again",
        advice_unix=advice["unix"] or 0.0,
        advice_detail=advice["detail"],
        cold_build_seconds=restored.get("cold_build_seconds", 0.0),
        objects=status["objects"],
        fetched_bytes=sum(status["by"].get("fetched_bytes", {}).values()),
        builds={
            span["name"]: BuildSeen(
                span["outcome"] or "",
                span.get("error") or "",
                span.get("steps_cached"),
                span.get("steps_total"),
            )
            for span in status["timeline"]
            if span["kind"] == "build"
        },
    )
