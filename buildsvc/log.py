"""What modules log with: an event is a few words, and fields beside them.

Of the standard library alone, because each module imports it while a client may be waiting.
:mod:`buildsvc.logs` says where events go.
"""

from __future__ import annotations

import logging
import sys

FIELDS = "buildsvc_fields"
"""The attribute of a log record that holds the event's fields."""

# Who called the method of Logger that called _log.
_CALLER = 3


class Logger:
    """A named source of events. Their fields are redacted by name and content when written."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        """Log what only matters when something is looked for."""
        self._log(logging.DEBUG, event, None, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what happens in every build."""
        self._log(logging.INFO, event, None, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what makes a build slower or unpublished, not wrong."""
        self._log(logging.WARNING, event, None, fields)

    def error(self, event: str, exc_info: BaseException | None = None, **fields: object) -> None:
        """Log what somebody has to look at, with the traceback of ``exc_info``."""
        self._log(logging.ERROR, event, exc_info, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, sys.exception(), fields)

    def _log(self, level: int, event: str, exc_info: BaseException | None, fields: object) -> None:
        self._logger.log(
            level, event, exc_info=exc_info, extra={FIELDS: fields}, stacklevel=_CALLER
        )


def get_logger(name: str) -> Logger:
    """Return the logger of a module, which gives its ``__name__``."""
    return Logger(name)
