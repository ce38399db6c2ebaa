"""How long an HTTP store waits; apart from it, so that naming them imports no HTTP client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """How long to wait, in seconds."""

    total: float = 120.0
    """For one operation, its bytes included."""
    connect: float = 3.0
    """For a TCP (and TLS) connection, once the host's addresses are known."""
    idle: float = 15.0
    """Between two pieces of an answer, or of what is sent."""


DEFAULT_TIMEOUTS = HttpTimeouts()
