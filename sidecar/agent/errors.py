"""What only the agent raises."""

from __future__ import annotations

from buildsvc.errors import BuildsvcError


class ChangedWhileReading(BuildsvcError):
    """A tree or a blob is not what it was when its capture began; nothing of it is published."""


class WorkerLost(BuildsvcError):
    """A worker process died again and again on one task, or none could be started."""


class NotCapturable(BuildsvcError):
    """A tree that the cache format cannot hold; it stays on this machine."""


class StagingUnusable(BuildsvcError):
    """A pack could not be written, usually for a full disk; what was in it is lost."""
