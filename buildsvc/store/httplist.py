"""The JSON answer of an HTTP object server to a listing, made and read."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from buildsvc.errors import StoreRefused
from buildsvc.store.contract import ObjectStat
from buildsvc.store.names import is_name

if TYPE_CHECKING:
    from collections.abc import Sequence


def format_page(page: Sequence[ObjectStat], *, more: bool) -> bytes:
    """The answer for ``page``; ``more`` says that there are names after its last."""
    objects = [{"name": s.name, "size": s.size, "modified": s.modified} for s in page]
    return json.dumps({"objects": objects, "more": more}).encode()


def parse_page(answer: bytes, prefix: str, after: str) -> tuple[tuple[ObjectStat, ...], bool]:
    """The page and whether there is more.

    Raises:
        StoreRefused: this is not what ``format_page`` makes, or names are wrong or out of order.
    """
    expected = f"a JSON list of objects after {after!r} that begin with {prefix!r}"
    try:
        document = json.loads(answer)
        more = document["more"]
        page = tuple(
            ObjectStat(
                str(entry["name"]),
                int(entry["size"]),
                None if entry["modified"] is None else float(entry["modified"]),
            )
            for entry in document["objects"]
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise not_an_object_server("", expected, repr(answer[:80])) from error
    for stat in page:
        if not math.isfinite(stat.modified or 0):
            raise not_an_object_server("", "times in seconds since 1970", repr(stat)[:200])
        if stat.size < 0 or stat.name <= after or not stat.name.startswith(prefix):
            raise not_an_object_server("", expected, repr(stat)[:200])
        if not is_name(stat.name):
            raise not_an_object_server("", "valid object names", repr(stat)[:200])
        after = stat.name
    if not isinstance(more, bool) or (more and not page):
        raise not_an_object_server("", "true or false, and objects where there is more", repr(more))
    return page, more


def not_an_object_server(name: str, expected: str, found: str) -> StoreRefused:
    """The error for an answer that no object server gives."""
    return StoreRefused(
        f"the answer for {name or 'the list'} is not that of an object server",
        expected=expected,
        found=found,
        advice="check the address of the store",
    )
