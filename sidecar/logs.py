"""Structured logs: for people on a terminal, JSON elsewhere, and a bounded file beside it.

Events are put into a queue where they happen and written by a thread: a full disk or a slow
reader of standard error never holds up the event loop.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
from collections import deque
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import structlog
from structlog.typing import Processor

from sidecar.files import private_directory
from sidecar.redact import redact_event

_FILE_BYTES = 4 * 1024 * 1024
_FILES_KEPT = 2
_RING_LINES = 2000


@dataclass(frozen=True)
class LogOptions:
    """How to log. ``directory`` gets sidecar.log, at most 12 MiB with its predecessors."""

    format: Literal["auto", "human", "json"]
    level: Literal["debug", "info", "warning", "error"]
    directory: Path | None = None

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

    def __enter__(self) -> Self:
        """Route structlog, logging and warnings. Raises CannotCreate."""
        events: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        self._handler = _Unchanged(events)
        self._listener = logging.handlers.QueueListener(events, *self._sinks())
        level = getattr(logging, self._options.level.upper())
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(level)
        for chatty in ("asyncio", "grpc", "aiohttp"):
            logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
        logging.captureWarnings(capture=True)
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                *_common(),
                structlog.processors.format_exc_info,
                redact_event,
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
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
        structlog.reset_defaults()
        self._listener.stop()
        for sink in self._listener.handlers:
            sink.close()

    def recent(self) -> list[str]:
        """Return the newest lines, as JSON, oldest first."""
        return list(self._ring)

    def _sinks(self) -> list[logging.Handler]:
        json = _formatter([structlog.processors.JSONRenderer()])
        people = _formatter(
            [
                _time_of_day,
                structlog.dev.ConsoleRenderer(
                    colors=sys.stderr.isatty(),
                    exception_formatter=structlog.dev.plain_traceback,
                    pad_event_to=24,
                    timestamp_key="time",
                ),
            ]
        )
        sinks: list[logging.Handler] = [_Terminal(), _Ring(self._ring)]
        sinks[0].setFormatter(people if self._options.human() else json)
        sinks[1].setFormatter(json)
        directory = self._options.directory
        if directory is not None:
            private_directory(directory)
            file = _File(
                directory / "sidecar.log",
                maxBytes=_FILE_BYTES,
                backupCount=_FILES_KEPT,
                delay=True,
            )
            file.setFormatter(json)
            sinks.append(file)
        return sinks


def _time_of_day(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Leave out what somebody at a terminal knows: the day, and which part of us speaks."""
    event["time"] = str(event["time"])[11:19]
    event.pop("logger", None)
    return event


def _common() -> list[Processor]:
    return [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
    ]


def _formatter(last: Sequence[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        # Of other libraries' records; ours went through the same when they were made.
        foreign_pre_chain=[
            *_common(),
            structlog.processors.format_exc_info,
            redact_event,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


class _Unchanged(logging.handlers.QueueHandler):
    """Passes records on as they are: the sinks' formatters want structlog's dictionary."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


class _Terminal(logging.Handler):
    """Writes to what standard error is at the moment: the progress display stands in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            # Nobody reads any more: the file and the ring still have it.
            return


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
