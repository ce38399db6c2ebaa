"""What S3's answers mean in terms of the contract.

The client raises a few kinds of exceptions and puts the status and the body, an XML document,
into their text. Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import re
from http import HTTPStatus

from obstore.exceptions import UnauthenticatedError

from buildsvc.errors import (
    ObjectExists,
    ObjectNotFound,
    ShortObject,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from buildsvc.store.ranges import archived

_STATUS = re.compile(r"status code: ([0-9]{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_REASON = re.compile(r'(?:message|error): "([^"\n]{1,200})"|\b(TimedOut)\b')
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")

# Statuses beside 5xx, and 5xx, that are the other kind; codes that say more than their status.
_PASSING_STATUS = frozenset({408, 409, 425, 429})
_PERMANENT_STATUS = frozenset({501, 505, 507})
_PASSING_CODE = frozenset(
    {
        "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "NoSuchUpload",
        "OperationAborted", "RequestTimeout", "SlowDown", "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)  # fmt: skip

# A 404 means that there is no object only to one of these, and only if it was asked for it: a
# credential service is asked over HTTP, too.
_OF_OBJECTS = frozenset({"GET", "HEAD", "DELETE"})
_ASKED = re.compile(r"Error performing ([A-Z]+) (\S+) in ")

# How the client words what is no answer of S3, and what is not the network's fault.
_NO_S3 = (
    "Received non-partial response",
    "Content-Range",
    "Content-Length Header",
    "Received redirect",
    "invalid list response",
    "Requested ",
)
# A list with a key that the client has no path for, such as a//b or a/../b.
_FOREIGN_KEY = "object with invalid path"
_UNTRUSTED = ("invalid peer certificate", "UnknownIssuer")

_ADVICE = {
    "AccessDenied": (
        "give this identity s3:GetObject, s3:PutObject and, so that what is absent is told from "
        "what is forbidden, s3:ListBucket"
    ),
    "ExpiredToken": "renew the credentials, or use a source that is renewed, such as web identity",
    "InvalidAccessKeyId": "check which credentials the environment names",
    "MethodNotAllowed": "check the endpoint; some servers do not speak S3 on this port",
    "NoSuchBucket": "make the bucket, or correct its name",
    "NotImplemented": "the server lacks what is needed: try `buildsvc store check`",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "check secret key, region and endpoint",
}


def s3_error(error: Exception, method: str, name: str) -> StoreError:
    """The contract's error for what the client raised when ``method`` was asked of ``name``.

    Methods are those of HTTP, and LIST.
    """
    # What follows is the same once more, in the words of the client's own language.
    text, _, details = str(error).partition("\n\nDebug source")
    status = _STATUS.search(text)
    if status is not None:
        return _with_status(int(status[1]), method, name, text)
    return _without_status(error, f"{method} {name}", text, details)


def _with_status(status: int, method: str, name: str, text: str) -> StoreError:
    found_code, message = _CODE.search(text), _MESSAGE.search(text)
    code = found_code[1] if found_code else ""
    found = f"HTTP {status} {code}".strip() + (f", {message[1]}" if message else "")
    if status == HTTPStatus.NOT_FOUND and code in {"", "NoSuchKey"} and _of(method, name, text):
        return ObjectNotFound(f"no object {name}", found=found)
    if status == HTTPStatus.PRECONDITION_FAILED and method == "PUT":
        return ObjectExists(f"there is an object {name} already", found=found)
    if code == "InvalidObjectState":
        return archived(name, found)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return ShortObject(f"{name} is shorter than its readers expect", found=found)
    passing = status in _PASSING_STATUS or (status >= 500 and status not in _PERMANENT_STATUS)
    if passing or code in _PASSING_CODE:
        return StoreUnavailable(f"{method} {name} failed", found=found)
    return StoreRefused(
        f"the store does not accept {method} {name}",
        found=found,
        advice=_ADVICE.get(code, _advice(status)),
    )


def _of(method: str, name: str, text: str) -> bool:
    asked = _ASKED.search(text)
    return (
        method in _OF_OBJECTS
        and asked is not None
        and asked[1] == method
        and asked[2].endswith(f"/{name}")
    )


def _advice(status: int) -> str:
    if status == HTTPStatus.INSUFFICIENT_STORAGE:
        return "free space in the store, or collect old generations"
    if status == HTTPStatus.FORBIDDEN:
        # To HEAD nobody says more.
        return f"check the credentials, and {_ADVICE['AccessDenied']}"
    return "check bucket, region and endpoint of the store's address"


def _without_status(error: Exception, what: str, text: str, details: str) -> StoreError:
    reasons = [match[1] or "timed out" for match in _REASON.finditer(details)]
    found = "; ".join([text.partition("\n")[0][:300], *reasons[-1:]])
    if isinstance(error, UnauthenticatedError):
        return StoreRefused(
            f"no credentials for {what}",
            found=found,
            advice="check where credentials come from: see docs/operations.md",
        )
    if any(words in details for words in _UNTRUSTED):
        return StoreRefused(
            "no trusted connection to the store",
            found=found,
            advice="install the authority that signed the server's certificate, or name its file "
            "in AWS_CA_BUNDLE",
        )
    if _FOREIGN_KEY in text:
        return StoreRefused(
            "there is a key below the prefix that cannot be listed",
            found=found,
            advice="remove what others have put there, or use another prefix",
        )
    if any(words in text for words in _NO_S3):
        return StoreRefused(
            f"the answer to {what} is not that of an S3 server",
            found=found,
            advice="check endpoint and region of the store's address",
        )
    return StoreUnavailable(f"{what} failed", found=found)
