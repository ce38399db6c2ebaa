"""The store in a bucket of an S3-compatible server.

The client is obstore, whose work is done in threads of its own without the interpreter's lock. The
operations are those of https://docs.aws.amazon.com/AmazonS3/latest/API/ with ``If-None-Match: *``
to create: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal

import obstore

from buildsvc.errors import ObjectNotFound, ShortObject, StoreRefused, StoreUnavailable
from buildsvc.store.contract import MAX_GET, ObjectStat
from buildsvc.store.copying import write_at
from buildsvc.store.createonly import KEY, CreateOnly
from buildsvc.store.names import check_name, check_prefix, is_name
from buildsvc.store.ranges import check_range, short_object, too_large
from buildsvc.store.s3calls import answer, body, listing, next_of, part, pieces
from buildsvc.store.s3client import make_client
from buildsvc.store.s3files import PART, WHOLE, FileParts, read_whole
from buildsvc.store.threads import Threads
from buildsvc.store.timeouts import DEFAULT_TIMEOUTS, HttpTimeouts

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from obstore import ListStream, ObjectMeta
    from obstore.store import S3Store as Client

    from buildsvc.store.s3address import S3Address

# Files in memory at a time, each of at most WHOLE bytes.
_FILES = 2
# Bytes a second below which a write counts as standing still: its progress cannot be seen.
_SLOWEST = 128 << 10


class S3Store:
    """``Store`` at ``address``, with what ``environ`` says beside it; connects when it is used.

    ``connections`` bounds the requests at one time. Every body that is sent carries its SHA-256.
    """

    def __init__(
        self,
        address: S3Address,
        timeouts: HttpTimeouts = DEFAULT_TIMEOUTS,
        connections: int = 16,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._address = address
        self._timeouts = timeouts
        self._environ = environ
        self._slots = asyncio.Semaphore(connections)
        self._files = asyncio.Semaphore(_FILES)
        self._threads = Threads(4, "s3-store")
        self._making = asyncio.Lock()
        self._clients: dict[bool, Client] = {}
        self._creating = CreateOnly(self._create_probe, "If-None-Match: *")
        self._bucket_seen = False

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """See ``Store.get``."""
        key = self._key(name)
        client = await self._client(reads=True)
        async with self._slots:
            result = await answer("GET", name, obstore.get_async(client, key))
            size = result.meta["size"]
            if size > limit:
                raise too_large(name, limit, size)
            return await body(result, name, size)

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        key = self._key(name)
        check_range(start, length)
        if length == 0:
            await self._check_empty_range(name, start)
            return b""
        client = await self._client(reads=True)
        async with self._slots:
            result = await part(client, key, name, start, length)
            return await body(result, name, length)

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        key = self._key(name)
        check_range(start, length)
        if length == 0:
            await self._check_empty_range(name, start)
            return 0
        client = await self._client(reads=True)
        done = 0
        async with self._slots:
            result = await part(client, key, name, start, length)
            # Whoever is cancelled, or cannot write, leaves the rest unread.
            async with aclosing(pieces(result, name, length)) as read:
                async for piece in read:
                    await self._threads.borrow(fd, partial(_copy, piece, at + done))
                    done += len(piece)
        return done

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        await self._write(self._key(name), name, data, "overwrite")

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``.

        Up to ``WHOLE`` bytes are one request; more are sent in parts, which become an object with
        the last of them. What a dead process leaves of them is for a rule of the bucket to remove.
        """
        key = self._key(name)
        async with self._files:
            size = (await self._threads.run(path.stat)).st_size
            if size <= WHOLE:
                data = await self._threads.run(read_whole, path, size)
                return await self._write(key, name, data, "overwrite")
            client = await self._client(reads=False)
            with await self._threads.run(path.open, "rb", buffering=0) as file:
                parts = FileParts(self._threads, file.fileno(), size)
                async with self._slots:
                    asked = obstore.put_async(
                        client, key, parts, chunk_size=PART, max_concurrency=2
                    )
                    await answer("PUT", name, asked)
            return None

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``.

        Raises:
            StoreRefused: also where the server overwrites what is there.
        """
        key = self._key(name)
        await self._creating.check()
        await self._write(key, name, data, "create")

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""
        key = self._key(name)
        client = await self._client(reads=True)
        async with self._slots:
            try:
                meta = await answer("HEAD", name, obstore.head_async(client, key))
            except ObjectNotFound:
                if not self._bucket_seen:
                    # HEAD has no body to say that the bucket is missing; this raises for it.
                    with suppress(ObjectNotFound, ShortObject):
                        await part(client, key, name, 0, 1)
                    self._bucket_seen = True
                raise
        return _stat(name, meta)

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See ``Store.list``."""
        check_prefix(prefix)
        client = await self._client(reads=True)
        stream = listing(client, self._address.prefix, prefix)
        last = ""
        while page := await self._page(stream, prefix):
            for meta in page:
                path = meta["path"]
                # A console's mark of a directory comes without the slash at its key's end, and is
                # not always known for one by its place.
                key = next((key for key in (path, f"{path}/") if key > last), None)
                if key is None:
                    # It might go on for ever.
                    raise StoreRefused(
                        "the server's list is not in order",
                        expected=f"a key after {last!r}",
                        found=repr(path),
                        advice="use a general purpose bucket",
                    )
                last = key
                inside = path.startswith(self._address.prefix)
                name = path.removeprefix(self._address.prefix) if inside else ""
                if name > prefix and not name.startswith(prefix):
                    return
                if key == path and name.startswith(prefix) and is_name(name):
                    yield _stat(name, meta)

    async def delete(self, name: str) -> None:
        """See ``Store.delete``."""
        key = self._key(name)
        client = await self._client(reads=False)
        async with self._slots:
            with suppress(ObjectNotFound):
                await answer("DELETE", name, obstore.delete_async(client, key))

    async def close(self) -> None:
        """See ``Store.close``."""
        self._clients.clear()
        self._threads.close()

    async def _write(
        self, key: str, name: str, data: bytes | memoryview, mode: Literal["create", "overwrite"]
    ) -> None:
        client = await self._client(reads=False)
        patience = self._timeouts.idle + len(data) / _SLOWEST
        async with self._slots:
            limit = asyncio.timeout(patience)
            try:
                async with limit:
                    asked = obstore.put_async(client, key, data, use_multipart=False, mode=mode)
                    await answer("PUT", name, asked)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise StoreUnavailable(
                    f"PUT {name} took too long", expected=f"an answer within {patience:.0f} s"
                ) from error

    async def _page(
        self, stream: ListStream[Sequence[ObjectMeta]], prefix: str
    ) -> Sequence[ObjectMeta]:
        async with self._slots:
            page = await next_of("LIST", prefix, stream) or ()
        self._bucket_seen = True
        return page

    async def _create_probe(self) -> None:
        await self._write(self._address.prefix + KEY, KEY, b"", "create")

    async def _check_empty_range(self, name: str, start: int) -> None:
        # HTTP has no empty range.
        size = (await self.stat(name)).size
        if size < start:
            raise short_object(name, start, 0, size)

    async def _client(self, *, reads: bool) -> Client:
        async with self._making:
            if reads not in self._clients:
                self._clients[reads] = await self._threads.run(
                    make_client, self._address, self._timeouts, self._environ, reads=reads
                )
            return self._clients[reads]

    def _key(self, name: str) -> str:
        return self._address.prefix + check_name(name)


def _copy(piece: memoryview, at: int, target: int, _stop: threading.Event) -> None:
    write_at(target, piece, at)


def _stat(name: str, meta: ObjectMeta) -> ObjectStat:
    modified = meta["last_modified"].timestamp()
    # The client's word for none.
    return ObjectStat(name, meta["size"], modified or None)
