"""The errors that buildsvc and the sidecar raise on purpose.

Each class is something that a caller acts on; ``exit_code`` is what a command ends with when
nobody did. The codes are those of BSD's sysexits(3).
"""

from __future__ import annotations

from typing import ClassVar


class BuildsvcError(Exception):
    """Base of all expected errors; seen by itself only for a defect (EX_SOFTWARE).

    The text says what went wrong and, where they are known, what was expected, what was found
    and what to do. Instances survive pickling, so worker processes may raise them.
    """

    exit_code: ClassVar[int] = 70

    def __init__(
        self, message: str, *, expected: str = "", found: str = "", advice: str = ""
    ) -> None:
        parts = [message]
        if expected:
            parts.append(f"expected: {expected}")
        if found:
            parts.append(f"found: {found}")
        if advice:
            parts.append(f"what to do: {advice}")
        # One finished string in ``args``: unpickling calls the class with it alone.
        super().__init__("; ".join(parts))


class UsageError(BuildsvcError):
    """A command was called with arguments that make no sense together (EX_USAGE)."""

    exit_code = 64


class NotPublished(BuildsvcError):
    """The store has no such cache key, or the key no such generation (EX_NOINPUT)."""

    exit_code = 66


class ConfigError(BuildsvcError):
    """A setting is missing, wrong, or in conflict with another (EX_CONFIG)."""

    exit_code = 78


class EnvironmentUnfit(BuildsvcError):
    """The machine lacks something that is needed: subuids, buildkitd… (EX_UNAVAILABLE)."""

    exit_code = 69


class RootInUse(BuildsvcError):
    """Another sidecar works in this root directory (EX_TEMPFAIL)."""

    exit_code = 75


class CannotCreate(BuildsvcError):
    """A local file, directory or socket cannot be created (EX_CANTCREAT)."""

    exit_code = 73


class StoreError(BuildsvcError):
    """The object store did not do what was asked (EX_IOERR)."""

    exit_code = 74


class ObjectNotFound(StoreError):
    """No object has this name."""


class ObjectExists(StoreError):
    """``create`` found an object of this name; it was left as it is."""


class ShortObject(StoreError):
    """The object ends before the range that was asked for: it was stored truncated."""


class InvalidName(StoreError):
    """No store takes this object name: a defect of the caller, or data of a hostile store."""


class StoreUnavailable(StoreError):
    """The store failed in passing: time-out, connection, 5xx. The one error that is retried.

    Whether a ``put``, ``create`` or ``delete`` took effect is not known after it. ``after`` is
    for how many seconds the store asks to be left alone; 0 if it does not.
    """

    exit_code = 75

    def __init__(
        self,
        message: str,
        *,
        expected: str = "",
        found: str = "",
        advice: str = "",
        after: float = 0.0,
    ) -> None:
        super().__init__(message, expected=expected, found=found, advice=advice)
        self.after = after


class StoreRefused(StoreError):
    """The store will not do it until somebody changes something (EX_NOPERM)."""

    exit_code = 77


class UnreadableObject(StoreRefused):
    """One object cannot be read as it is: it is larger than its readers take, or archived."""


class CacheError(BuildsvcError):
    """The cache in the store cannot be used as it is (EX_DATAERR)."""

    exit_code = 65


class CorruptObject(CacheError):
    """An object's bytes are not what its name, its digest or the format demands."""


class UnsupportedFormat(CacheError):
    """The object is of a format version that this buildsvc does not read."""


class KeyMismatch(CacheError):
    """The generation was made for another cache key or another place in its log."""


class UntrustedHead(CacheError):
    """The generation's head is not signed by a key that may, or contradicts one that is."""


class DisownedHead(UntrustedHead):
    """A head that is signed, and is not the one that the head after it continues."""


class HeadConflict(CacheError):
    """Somebody else published this generation number first (EX_TEMPFAIL)."""

    exit_code = 75
