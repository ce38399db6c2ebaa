"""Capture: directories and blobs become chunks, and trees that name them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from buildsvc.cache import chunking, trees
from sidecar.agent.capture import CapturedTree, TreeCapture
from sidecar.agent.dirfd import DIRECTORY
from sidecar.agent.errors import ChangedWhileReading, NotCapturable
from sidecar.agent.fitting import expect_fitting
from sidecar.agent.reading import WINDOW, FileReader
from sidecar.agent.sink import ChunkSink
from sidecar.agent.statcache import StatCache


@dataclass(frozen=True)
class CapturedBlob:
    """A blob's size in bytes, its mtime and its chunks in order, concatenated."""

    size: int
    mtime_ns: int
    data_digests: bytes


class Packer:
    """Reads trees and blobs one after another; remembers what it read of those that change.

    Raises ChangedWhileReading for what is not at rest, NotCapturable for what the format cannot
    hold, OSError for what cannot be read or a staging directory that is full.
    """

    def __init__(self, sink: ChunkSink, limits: trees.Limits = trees.LIMITS) -> None:
        """Put all chunks into `sink`; larger trees are not capturable."""
        self._sink = sink
        self._limits = limits
        self._stats = StatCache()
        self._window = bytearray()

    def capture_tree(
        self,
        path: Path,
        *,
        remember: str | None = None,
        grain: chunking.Grain = chunking.COARSE,
    ) -> CapturedTree:
        """Capture a directory. `remember`: the name by which its next capture finds its files."""
        before = self._stats.files(remember) if remember is not None else None
        root = os.open(path, DIRECTORY)
        try:
            # One that was captured before is not expected to have outgrown the limits since.
            if not before:
                expect_fitting(root, self._limits)
            capture = TreeCapture(
                root, self._sink, self._large_window, before, grain=grain, limits=self._limits
            )
            with self._sink.capturing():
                captured = capture.run()
        except NotCapturable:
            if remember is not None:
                self._stats.remember(remember, {})
            raise
        finally:
            os.close(root)
        if remember is not None:
            self._stats.remember(remember, capture.read)
        return captured

    def forget(self, digests: Iterable[bytes]) -> None:
        """Take chunks as not stored; files that may be in them are read again."""
        self._sink.forget(digests)
        self._stats = StatCache()

    def capture_bare(self, path: Path) -> CapturedTree:
        """Capture a directory as if nothing were in it."""
        root = os.open(path, DIRECTORY)
        try:
            capture = TreeCapture(
                root, self._sink, self._large_window, None, grain=chunking.FINE, limits=trees.LIMITS
            )
            with self._sink.capturing():
                return capture.run_bare()
        finally:
            os.close(root)

    def capture_blob(self, digest: str, path: Path) -> CapturedBlob:
        """Capture the file of a content blob, making sure that it is what `digest` says."""
        algorithm, _, expected = digest.partition(":")
        hasher = hashlib.new(algorithm)
        data = bytearray()
        name = os.fsencode(path)
        status = os.stat(name, follow_symlinks=False)
        with self._sink.capturing(), FileReader(name, None, name, status) as file:
            for _, view in file.chunks(0, status.st_size, self._large_window(), chunking.COARSE):
                hasher.update(view)
                data += self._sink.put(view)
        if hasher.hexdigest() != expected:
            raise ChangedWhileReading(f"blob {digest}: its bytes are not what its name says")
        return CapturedBlob(status.st_size, status.st_mtime_ns, bytes(data))

    def _large_window(self) -> bytearray:
        if not self._window:
            self._window = bytearray(WINDOW)
        return self._window
