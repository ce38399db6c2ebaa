"""What an HTTP status means in terms of the contract (RFC 9110)."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from buildsvc.errors import (
    ObjectExists,
    ObjectNotFound,
    ShortObject,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)

_PASSING = frozenset({408, 425, 429})
_PERMANENT = frozenset({501, 505, 507})
# Of seconds: more than any waiting time has.
_DIGITS = 9


def status_error(
    method: str, name: str, status: int, reason: str, retry_after: str | None = None
) -> StoreError:
    """The contract's error for an answer that is not the success that was asked for.

    ``retry_after`` is the header of this name.
    """
    found = f"HTTP {status} {reason}".strip()
    if status == HTTPStatus.NOT_FOUND and method in {"GET", "HEAD"}:
        return ObjectNotFound(f"no object {name}", found=found)
    if status == HTTPStatus.PRECONDITION_FAILED:
        return ObjectExists(f"there is an object {name} already", found=found)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return ShortObject(f"{name} is shorter than its readers expect", found=found)
    if is_passing(status):
        after = parse_retry_after(retry_after)
        return StoreUnavailable(f"{method} {name} failed", found=found, after=after)
    return StoreRefused(
        f"the store does not accept {method} {name}",
        expected="a success",
        found=found,
        advice=_ADVICE.get(status, "check that the address is that of an object server"),
    )


def is_passing(status: int) -> bool:
    """Whether the same request may succeed later, with nobody doing anything about it."""
    return status in _PASSING or (status >= 500 and status not in _PERMANENT)


def parse_retry_after(value: str | None) -> float:
    """The seconds that the header asks for (RFC 9110, 10.2.3); 0 if it is absent or malformed."""
    if value is None:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value[:_DIGITS])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


_ADVICE = {
    200: "use a server that answers Range requests with 206",
    401: "give the store credentials",
    403: "give this identity the right to it",
    413: "raise the server's limit for the size of a request",
    507: "free space in the store, or collect old generations",
}
