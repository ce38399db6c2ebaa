"""What the step itself fails of, apart from the build: each with a code that buildctl never has.

The codes are those of sysexits(3); buildctl ends with 1, or by a signal.
"""

from __future__ import annotations

from buildsvc.errors import BuildsvcError


class InputMissing(BuildsvcError):
    """The context, the Dockerfile or another file of the build is not there (EX_NOINPUT)."""

    exit_code = 66


class SidecarMissing(BuildsvcError):
    """No sidecar served builds in the time that it had (EX_UNAVAILABLE)."""

    exit_code = 69


class NotInRegistry(BuildsvcError):
    """The registry does not have what was pushed, or has something else (EX_PROTOCOL)."""

    exit_code = 76


class RegistryUnavailable(BuildsvcError):
    """The registry gave no usable answer in time (EX_TEMPFAIL). The one error that is retried."""

    exit_code = 75


class RegistryRefused(BuildsvcError):
    """The registry, or what hands out its credentials, refuses (EX_NOPERM)."""

    exit_code = 77
