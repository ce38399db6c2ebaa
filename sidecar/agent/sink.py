"""Where captured bytes go: chunks that nobody has yet, into packs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from buildsvc.cache import chunks
from buildsvc.cache.packs import FinishedPack, PackWriter
from sidecar.agent.errors import StagingUnusable

#: Threads that compress, at most. Each may hold a chunk and its compressed form.
ENCODERS = 4


class ChunkSink:
    """Puts each chunk into the open pack, unless it is known.

    Raises StagingUnusable when a pack cannot be written; then what `known` holds is not true any
    more, and the sink must not be used again.
    """

    def __init__(
        self, writer: PackWriter, known: set[bytes], finished: Callable[[FinishedPack], None]
    ) -> None:
        """Add new digests to `known`; hand each full pack to `finished`, which may block."""
        self._writer = writer
        self._known = known
        self._finished = finished
        self._encoders: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[bytes, int, Future[bytes]]] = deque()
        self._most = min(ENCODERS, len(os.sched_getaffinity(0)))

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Compress in threads meanwhile; at the end everything is in packs.

        The threads have the priority of the one that enters, so they live no longer than this.
        """
        with ThreadPoolExecutor(self._most, "encoder") as encoders:
            self._encoders = encoders
            try:
                yield
            finally:
                self._encoders = None
                self._settle(0)

    def put(self, data: bytes | bytearray | memoryview) -> bytes:
        """Store one chunk of 1 byte to `chunks.MAX_LENGTH`; return its digest.

        The data may be overwritten afterwards.
        """
        digest = chunks.digest(data)
        if digest not in self._known:
            self._known.add(digest)
            if self._encoders is None:
                self._write(digest, chunks.encode(data), len(data))
            else:
                encoded = self._encoders.submit(chunks.encode, bytes(data))
                self._pending.append((digest, len(data), encoded))
                self._settle(self._most)
        return digest

    def know(self, digests: Iterable[bytes]) -> None:
        """Take chunks as stored already."""
        self._known.update(digests)

    def forget(self, digests: Iterable[bytes]) -> None:
        """Take chunks as not stored."""
        self._known.difference_update(digests)

    def flush(self) -> None:
        """Close the open pack, if there is one."""
        with _staging():
            pack = self._writer.finish()
        if pack is not None:
            self._finished(pack)

    def _settle(self, most: int) -> None:
        """Write what was put first until at most so many chunks are being compressed."""
        while len(self._pending) > most:
            digest, length, encoded = self._pending.popleft()
            self._write(digest, encoded.result(), length)

    def _write(self, digest: bytes, stored: bytes, length: int) -> None:
        with _staging():
            pack = self._writer.add(digest, stored, length)
        if pack is not None:
            self._finished(pack)


@contextmanager
def _staging() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StagingUnusable("a pack cannot be written", found=str(error)) from error
