"""What the head and the body of an HTTP answer must be; blocking, for threads."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from buildsvc.errors import StoreUnavailable
from buildsvc.store.contract import ObjectStat
from buildsvc.store.copying import write_at
from buildsvc.store.httplist import not_an_object_server
from buildsvc.store.ranges import short_object, too_large

if TYPE_CHECKING:
    import threading

    from buildsvc.store.httpexchange import Answer

# No more digits than Python converts, and than any object has.
_LENGTH = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(rf"bytes ({_LENGTH.pattern})-({_LENGTH.pattern})/(?:[0-9]+|\*)")


def read_object(answer: Answer, name: str, limit: int) -> bytes:
    """The body, which is an object of at most ``limit`` bytes.

    Raises:
        StoreUnavailable: it may be cut off.
        UnreadableObject: it is larger.
    """
    data = _read(answer, name, limit)
    if data is None:
        raise too_large(name, limit)
    return data


def read_document(answer: Answer, what: str, limit: int) -> bytes:
    """The body, which is the server's own words, of at most ``limit`` bytes.

    Raises:
        StoreUnavailable: it may be cut off.
        StoreRefused: it is larger.
    """
    data = _read(answer, what, limit)
    if data is None:
        raise not_an_object_server(what, f"at most {limit} bytes", "more")
    return data


def _read(answer: Answer, what: str, limit: int) -> bytes | None:
    """The body; None if it is larger. Raises ``StoreUnavailable``: it may be cut off."""
    if not answer.delimited:
        raise StoreUnavailable(
            f"{what} may have arrived cut off",
            expected="an answer with Content-Length, or in chunks",
            found="one that ends with the connection",
        )
    parts = []
    size = 0
    while count := answer.readinto(answer.buffer):
        size += count
        if size > limit:
            return None
        parts.append(bytes(answer.buffer[:count]))
    return b"".join(parts)


def read_part(answer: Answer, name: str, start: int, length: int) -> bytes:
    """The body, which must be this range.

    Raises:
        ShortObject: the object ends before.
        StoreUnavailable: it is cut off.
        StoreRefused: it is another range.
    """
    _check_part(answer, name, start, length)
    data = bytearray(length)
    _check_length(answer, name, length, answer.readinto(memoryview(data)))
    return bytes(data)


def copy_part(
    answer: Answer,
    name: str,
    start: int,
    length: int,
    *,
    target: int,
    at: int,
    stop: threading.Event,
) -> int:
    """Copy the body, which must be this range, to offset ``at`` of the open ``target``.

    Raises:
        ShortObject: the object ends before.
        StoreUnavailable: it is cut off, or ``stop`` was set.
        StoreRefused: it is another range.
        OSError: writing failed.
    """
    _check_part(answer, name, start, length)
    done = 0
    while done < length:
        count = answer.readinto(answer.buffer[: length - done])
        # Bytes that the kernel has are read even after the connection's end.
        if count == 0 or stop.is_set():
            break
        write_at(target, answer.buffer[:count], at + done)
        done += count
    _check_length(answer, name, length, done)
    return done


def stat_of(answer: Answer, name: str) -> ObjectStat:
    """What a HEAD answer tells about the object; raises ``StoreRefused``."""
    size = answer.header("Content-Length") or ""
    if not _LENGTH.fullmatch(size):
        found = repr(size[:80])
        raise not_an_object_server(name, "a HEAD answer with Content-Length", found)
    return ObjectStat(name, int(size), _modified(answer.header("Last-Modified")))


def _modified(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _check_part(answer: Answer, name: str, start: int, length: int) -> None:
    content_range = answer.header("Content-Range") or ""
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != start or int(match[2]) >= start + length:
        raise not_an_object_server(name, f"{length} bytes from {start}", repr(content_range[:80]))
    if int(match[2]) < start + length - 1:
        raise short_object(name, start, length, int(match[2]) + 1)


def _check_length(answer: Answer, name: str, length: int, done: int) -> None:
    if done < length:
        raise StoreUnavailable(f"{name} arrived cut off", found=f"{length - done} bytes less")
    if answer.readinto(answer.buffer[:1]):
        raise not_an_object_server(name, f"{length} bytes", "more")
