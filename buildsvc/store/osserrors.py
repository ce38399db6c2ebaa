"""What an error of OSS means in terms of the contract.

The codes: https://www.alibabacloud.com/help/en/oss/support/http-status-code-403 and its
neighbours, one page for each status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildsvc.errors import (
    ObjectExists,
    ObjectNotFound,
    ShortObject,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from buildsvc.store.httpstatus import is_passing, parse_retry_after
from buildsvc.store.ranges import archived

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 200

# Damage and delays on the way, which OSS noticed: the next attempt may be luckier.
_PASSING = frozenset(
    {"RequestTimeout", "IncompleteBody", "InvalidDigest", "TooManyRequests", "SlowDown"}
)
_STALE = frozenset({"SecurityTokenExpired", "InvalidSecurityToken", "InvalidAccessKeyId"})


@dataclass(frozen=True, slots=True)
class OssProblem:
    """An answer of OSS that is not a success."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str]

    @property
    def stale(self) -> bool:
        """Whether it is about credentials that do not hold (any more)."""
        return self.code in _STALE

    @property
    def found(self) -> str:
        """For messages. Never the details: they repeat what was signed, the token in it."""
        text = f"HTTP {self.status} {self.code}".strip()
        if self.message:
            text += f" ({self.message[:_LONGEST]})"
        request_id = self.headers.get("x-oss-request-id")
        return f"{text}, request {request_id[:_LONGEST]}" if request_id else text

    @property
    def after(self) -> float:
        """For how many seconds OSS asks to be left alone."""
        return max(
            parse_retry_after(self.headers.get("Retry-After")),
            # https://www.alibabacloud.com/help/en/oss/user-guide/limits
            _milliseconds(self.headers.get("x-oss-qos-delay-time", "")),
        )


class OssProblemError(Exception):
    """Brings a problem to who knows what was asked; never leaves the store."""

    def __init__(self, problem: OssProblem) -> None:
        super().__init__(problem.found)
        self.problem = problem


def oss_error(
    problem: OssProblem, method: str, name: str, *, creates: bool, renews: bool
) -> StoreError:
    """The contract's error; ``name`` is the object's, empty for the bucket itself.

    ``creates``: it was a write that must not overwrite. ``renews``: there may be other
    credentials the next time.
    """
    status, code, found = problem.status, problem.code, problem.found
    what = f"{method} {name or 'of the bucket'}"
    # An answer to HEAD has no document that could tell a code.
    if status == 404 and name and (code == "NoSuchKey" or (method == "HEAD" and not code)):
        return ObjectNotFound(f"no object {name}", found=found)
    if status == 409 and creates and code == "FileAlreadyExists":
        return ObjectExists(f"there is an object {name} already", found=found)
    # https://www.alibabacloud.com/help/en/oss/user-guide/restore-objects
    if code == "InvalidObjectState":
        return archived(name, found)
    if status == 416:
        return ShortObject(f"{name} is shorter than its readers expect", found=found)
    if is_passing(status) or code in _PASSING:
        return StoreUnavailable(f"{what} failed", found=found, after=problem.after)
    if problem.stale and renews:
        return StoreUnavailable(f"{what} failed: its credentials do not hold", found=found)
    return StoreRefused(
        f"OSS does not accept {what}",
        expected="a success",
        found=found,
        advice=_ADVICE.get(code) or _ADVICE_FOR_STATUS.get(status, _GENERAL),
    )


def versioned(bucket: str, found: str) -> StoreRefused:
    """The error for a bucket in which two writers can both create the same object."""
    return StoreRefused(
        f"the bucket {bucket} has versioning",
        expected="a bucket for which versioning was never switched on: with it, also suspended, "
        "OSS ignores x-oss-forbid-overwrite, by which one of two publishers wins",
        found=found,
        advice="use another bucket; versioning cannot be removed from this one",
    )


def _milliseconds(value: str) -> float:
    return int(value[:9]) / 1000 if value.isascii() and value.isdigit() else 0.0


_GENERAL = "look the code up in OSS's documentation of HTTP status codes"
_ADVICE = {
    "AccessDenied": "give this identity the right to it, and check endpoint and region",
    "EntityTooLarge": "one object can have 5 GiB",
    "FileImmutable": "use a bucket without a retention policy",
    "InvalidAccessKeyId": "check the access key",
    "NoSuchBucket": "check the bucket's name, the region and the endpoint",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "check the access key's secret and the region",
    "UserDisable": "look at the account: it is locked or owes money",
}
_ADVICE_FOR_STATUS = {
    301: "check the region and the endpoint",
    307: "check the region and the endpoint",
    403: _ADVICE["AccessDenied"],
    404: _ADVICE["NoSuchBucket"],
}
