"""The store in a bucket of Alibaba Cloud OSS.

One PutObject for each write: OSS takes 5 GiB in it, and packs have some tens of MiB. Every byte
that is sent is compared with the CRC-64 that OSS computed of what arrived, and so is every object
that is read whole. Of a range OSS says no CRC, only that of the whole object, so a range's bytes
are checked by who reads them: chunks are named by their digest.
"""

from __future__ import annotations

import base64
import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING

from buildsvc.errors import StoreRefused, StoreUnavailable
from buildsvc.store.contract import MAX_GET, ObjectStat
from buildsvc.store.crc64 import CheckedUpload, crc_of
from buildsvc.store.createonly import KEY, CreateOnly
from buildsvc.store.httpbody import copy_part, read_object, read_part, stat_of
from buildsvc.store.httplist import not_an_object_server
from buildsvc.store.names import check_name, check_prefix, is_name
from buildsvc.store.ossbucket import OssBucket
from buildsvc.store.osserrors import versioned
from buildsvc.store.ranges import check_range, short_object
from buildsvc.store.timeouts import DEFAULT_TIMEOUTS, HttpTimeouts
from buildsvc.store.uploads import BytesUpload, FileUpload, Upload

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from buildsvc.store.httpexchange import Answer
    from buildsvc.store.ossaddress import OssAddress
    from buildsvc.store.ossrenewal import RenewedCredentials
    from buildsvc.store.ossrequests import OssRequests, Page

_CRC = "x-oss-hash-crc64ecma"
_NONE: Mapping[str, str] = MappingProxyType({})


class OssStore:
    """``Store`` in the bucket and below the prefix of ``address``; connects with the first use.

    The first use also asks whether the bucket has versioning, and refuses it then.
    ``connections`` bounds the requests at one time; each has a thread and a connection, which
    shuts down when a call is cancelled or takes too long.
    """

    def __init__(
        self,
        address: OssAddress,
        credentials: RenewedCredentials,
        timeouts: HttpTimeouts = DEFAULT_TIMEOUTS,
        connections: int = 16,
    ) -> None:
        self._address = address
        self._bucket = OssBucket(address, credentials, timeouts, connections)
        self._creating = CreateOnly(self._create_probe, "x-oss-forbid-overwrite")

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """See ``Store.get``."""
        key = self._address.key(check_name(name))

        def read(requests: OssRequests) -> bytes:
            answer = requests.get(key, _NONE)
            data = read_object(answer, name, limit)
            _check_crc(answer, name, "read", crc_of(data))
            return data

        return await self._bucket.ask("GET", name, read)

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        check_range(start, length)
        key = self._address.key(check_name(name))
        if length == 0:
            await self._check_empty_range(name, start)
            return b""

        def read(requests: OssRequests) -> bytes:
            return read_part(requests.get(key, _range(start, length)), name, start, length)

        return await self._bucket.ask("GET", name, read)

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        check_range(start, length)
        key = self._address.key(check_name(name))
        if length == 0:
            await self._check_empty_range(name, start)
            return 0

        def copy(requests: OssRequests, target: int, stop: threading.Event) -> int:
            answer = requests.get(key, _range(start, length))
            return copy_part(answer, name, start, length, target=target, at=at, stop=stop)

        return await self._bucket.borrow("GET", name, fd, copy)

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        key = self._address.key(check_name(name))
        await self._bucket.ask("PUT", name, lambda asked: _put(asked, key, name, BytesUpload(data)))

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``."""
        key = self._address.key(check_name(name))

        def send(requests: OssRequests) -> None:
            with path.open("rb", buffering=0) as file:
                _put(requests, key, name, FileUpload(file.fileno()))

        await self._bucket.ask("PUT", name, send)

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``."""
        key = self._address.key(check_name(name))
        await self._creating.check()
        await self._create(key, name, data)

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""
        key = self._address.key(check_name(name))
        return await self._bucket.ask("HEAD", name, lambda asked: stat_of(asked.head(key), name))

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See ``Store.list``; keys that are no names are not ours, and left out."""
        keys = self._address.key(check_prefix(prefix))
        begin: str | None = ""
        last = ""
        while begin is not None:
            page = await self._bucket.ask("GET", "", _page(keys, begin))
            for entry in page.entries:
                # Or a listing might never end.
                if entry.name <= last or not entry.name.startswith(keys):
                    raise not_an_object_server(
                        "", f"keys after {last!r} that begin with {keys!r}", repr(entry.name)[:200]
                    )
                last = entry.name
                name = self._address.name(entry.name)
                if is_name(name):
                    yield ObjectStat(name, entry.size, entry.modified)
            begin = page.next or None

    async def delete(self, name: str) -> None:
        """See ``Store.delete``."""
        key = self._address.key(check_name(name))

        def remove(requests: OssRequests) -> None:
            requests.delete(key)

        await self._bucket.ask("DELETE", name, remove)

    async def close(self) -> None:
        """See ``Store.close``."""
        await self._bucket.close()

    async def _create(self, key: str, name: str, data: bytes) -> None:
        def send(requests: OssRequests) -> None:
            # A put with wrong bytes is repaired by the next one; this cannot be done again, so
            # OSS shall not store it in the first place.
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            headers = {
                "x-oss-forbid-overwrite": "true",
                "Content-MD5": base64.b64encode(digest).decode(),
            }
            body = CheckedUpload(BytesUpload(data))
            answer = requests.put(key, body, headers)
            try:
                _check_stored(answer, name, body.crc)
                if answer.header("x-oss-version-id") is not None:
                    # Switched on since it was asked for. It may have replaced another one's.
                    raise versioned(self._address.bucket, "an object with a version")
            except StoreRefused as error:
                # It is stored all the same, and the next one would be as well.
                raise self._creating.refuse(error) from None

        await self._bucket.ask("PUT", name, send, creates=True)

    async def _create_probe(self) -> None:
        await self._create(self._address.key(KEY), KEY, b"")

    async def _check_empty_range(self, name: str, start: int) -> None:
        # HTTP has no empty range.
        size = (await self.stat(name)).size
        if size < start:
            raise short_object(name, start, 0, size)


def _range(start: int, length: int) -> dict[str, str]:
    # Without the second one OSS answers a range beyond the end with the whole object:
    # https://www.alibabacloud.com/help/en/oss/developer-reference/getobject
    return {
        "Range": f"bytes={start}-{start + length - 1}",
        "x-oss-range-behavior": "standard",
    }


def _page(prefix: str, begin: str) -> Callable[[OssRequests], Page]:
    return lambda requests: requests.list(prefix, begin)


def _put(requests: OssRequests, key: str, name: str, body: Upload) -> None:
    checked = CheckedUpload(body)
    _check_stored(requests.put(key, checked, _NONE), name, checked.crc)


def _check_stored(answer: Answer, name: str, crc: int) -> None:
    """Raise unless OSS says that it has stored an object with this CRC."""
    if answer.header(_CRC) is None:
        raise StoreRefused(
            f"the answer to PUT {name} is not that of OSS",
            expected=f"the header {_CRC}",
            advice="use the endpoint of OSS itself, with nothing in between",
        )
    _check_crc(answer, name, "stored", crc)


def _check_crc(answer: Answer, name: str, done: str, crc: int) -> None:
    """Raise unless OSS has the same CRC; of an object older than the feature it has none."""
    found = answer.header(_CRC)
    if found is not None and found != str(crc):
        raise StoreUnavailable(
            f"{name} was {done} with other bytes",
            expected=f"CRC-64 {crc}",
            found=found[:40],
        )
