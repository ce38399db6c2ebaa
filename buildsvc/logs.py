"""Structured logs: for people on a terminal, JSON elsewhere, and a bounded file beside it.

Events are put into a queue where they happen and written by a thread: a full disk or a slow
reader of standard error never holds up the event loop. A reader that has stalled holds up
nothing but the lines for it.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from buildsvc.files import private_directory
from buildsvc.log import FIELDS
from buildsvc.logsettings import LogFormat, LogLevel
from buildsvc.redact import redacted

_FILE_BYTES = 4 * 1024 * 1024
_FILES_KEPT = 2
_RING_LINES = 2000
#: Lines that wait for a reader of standard error that is slow; beyond them new ones are lost.
_WAITING_LINES = 10_000
#: Seconds that the end waits for such a reader.
_LAST_LINES = 2.0
#: Characters whose bytes fit into a pipe that takes any: PIPE_BUF by the longest of UTF-8.
_PIECE = select.PIPE_BUF // 4

_CHATTY = ("asyncio", "grpc", "aiohttp")


@dataclass(frozen=True)
class LogOptions:
    """How to log. ``file`` takes at most 12 MiB with its predecessors, in a private directory."""

    format: LogFormat
    level: LogLevel
    file: Path | None = None

    def human(self) -> bool:
        """Whether to write for people."""
        return self.format == "human" or (self.format == "auto" and sys.stderr.isatty())


class Logs:
    """Logging of this process while it is entered; afterwards all of it is written."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._ring: deque[str] = deque(maxlen=_RING_LINES)
        self._listener: logging.handlers.QueueListener | None = None
        self._handler: logging.Handler | None = None
        self._levels: dict[logging.Logger, int] = {}

    def __enter__(self) -> Self:
        """Route logging and warnings. Raises CannotCreate."""
        events: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        self._handler = _Queue(events)
        self._listener = logging.handlers.QueueListener(events, *self._sinks())
        level = getattr(logging, self._options.level.upper())
        root = logging.getLogger()
        root.addHandler(self._handler)
        self._set_level(root, level)
        for chatty in _CHATTY:
            self._set_level(logging.getLogger(chatty), max(level, logging.WARNING))
        logging.captureWarnings(capture=True)
        self._listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is queued and leave logging as it was."""
        assert self._listener is not None
        assert self._handler is not None
        logging.getLogger().removeHandler(self._handler)
        logging.captureWarnings(capture=False)
        for logger, level in self._levels.items():
            logger.setLevel(level)
        self._listener.stop()
        for sink in self._listener.handlers:
            sink.close()

    def recent(self) -> list[str]:
        """Return the newest lines, as JSON, oldest first."""
        return list(self._ring)

    def _set_level(self, logger: logging.Logger, level: int) -> None:
        self._levels[logger] = logger.level
        logger.setLevel(level)

    def _sinks(self) -> list[logging.Handler]:
        # Without a formatter a sink writes a record's message: the line of JSON.
        sinks: list[logging.Handler] = [_Ring(self._ring)]
        file = self._options.file
        if file is not None:
            private_directory(file.parent)
            sinks.append(
                _File(
                    file,
                    maxBytes=_FILE_BYTES,
                    backupCount=_FILES_KEPT,
                    delay=True,
                )
            )
        terminal = _Terminal()
        if self._options.human():
            terminal.setFormatter(_Human(colours=sys.stderr.isatty()))
        return [*sinks, terminal]


class _Event(logging.LogRecord):
    """A record as it is shown, ours or another library's: redacted, its message a line of JSON.

    Made where the event happens, because what it speaks of may change before it is written.
    """

    def __init__(self, record: logging.LogRecord) -> None:
        self.shown = _shown(record)
        super().__init__(
            record.name,
            record.levelno,
            record.pathname,
            record.lineno,
            json.dumps(self.shown),
            args=None,
            exc_info=None,
        )


def _shown(record: logging.LogRecord) -> dict[str, Any]:
    event = {
        **getattr(record, FIELDS, {}),
        "event": record.getMessage(),
        "logger": record.name,
        "level": record.levelname.lower(),
        "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    if record.stack_info:
        event["stack"] = record.stack_info
    if record.exc_info and record.exc_info[0] is not None:
        event["exception"] = logging.Formatter().formatException(record.exc_info)
    shown: dict[str, Any] = redacted(event)
    return shown


class _Queue(logging.handlers.QueueHandler):
    def prepare(self, record: logging.LogRecord) -> _Event:
        return _Event(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Log that a record cannot be shown; logging would print it, with its secrets."""
        error = sys.exc_info()[0]
        said = (
            f"an event of {record.pathname}:{record.lineno} cannot be shown: "
            f"{error.__name__ if error else 'no error'}"
        )
        self.enqueue(
            _Event(
                logging.LogRecord(
                    record.name, record.levelno, record.pathname, record.lineno, said, None, None
                )
            )
        )


_RESET, _BRIGHT, _DIM = "\033[0m", "\033[1m", "\033[2m"
_RED, _GREEN, _YELLOW, _MAGENTA, _CYAN = (f"\033[3{colour}m" for colour in (1, 2, 3, 5, 6))
_LEVEL_COLOURS = {
    "critical": _RED,
    "error": _RED,
    "warning": _YELLOW,
    "info": _GREEN,
    "debug": _GREEN,
}
_LEVEL_WIDTH = 9
_EVENT_WIDTH = 24


class _Human(logging.Formatter):
    """Leaves out what somebody at a terminal knows: the day, and which part of us speaks."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        assert isinstance(record, _Event)
        event = record.shown
        level = event["level"]
        style = _LEVEL_COLOURS[level] + _BRIGHT if level in _LEVEL_COLOURS else ""
        words = [
            self._styled(_DIM, event["time"][11:19]),
            f"[{self._styled(style, level.ljust(_LEVEL_WIDTH))}]",
            self._styled(_BRIGHT, event["event"].ljust(_EVENT_WIDTH)),
        ]
        rest = sorted(event.keys() - {"time", "level", "event", "logger", "stack", "exception"})
        words += [
            f"{self._styled(_CYAN, key)}={self._styled(_MAGENTA, _quoted(event[key]))}"
            for key in rest
        ]
        return " ".join(words).rstrip() + _traces(event)

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._colours else text


def _quoted(value: object) -> str:
    if isinstance(value, str) and not set(value) & set(" \t=\r\n\"'"):
        return value
    return repr(value)


def _traces(event: Mapping[str, Any]) -> str:
    return "".join(f"\n{event[key]}" for key in ("stack", "exception") if key in event)


class _Terminal(logging.Handler):
    """Writes to what standard error is at the moment: the progress display stands in for it.

    In a thread of its own, for the sake of the file and the ring.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING_LINES)
        self._ending = False
        self._thread = threading.Thread(target=self._write_all, name="log-terminal", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(self.format(record) + "\n")

    def close(self) -> None:
        # Once: logging closes all handlers again when the interpreter ends.
        if not self._ending:
            self._ending = True
            end = time.monotonic() + _LAST_LINES
            with suppress(queue.Full):
                self._lines.put(None, timeout=_LAST_LINES)
            self._thread.join(max(0.0, end - time.monotonic()))
        super().close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            # Nobody reads any more, perhaps: the file and the ring still have it.
            with suppress(OSError, ValueError):
                for at in range(0, len(line), _PIECE):
                    _wait_for_reader(sys.stderr)
                    sys.stderr.write(line[at : at + _PIECE])
                    sys.stderr.flush()


def _wait_for_reader(stream: TextIO) -> None:
    """Wait until a piece can be written.

    Not in the writing itself, which holds the stream's lock: the interpreter needs that to end.
    """
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        # No file, and so nothing that can stall.
        return
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    poll.poll()


class _File(logging.handlers.RotatingFileHandler):
    """Loses lines on a full disk without a word: standard error and the ring have them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        del record

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _Ring(logging.Handler):
    def __init__(self, ring: deque[str]) -> None:
        super().__init__()
        self._ring = ring

    def emit(self, record: logging.LogRecord) -> None:
        self._ring.append(self.format(record))
