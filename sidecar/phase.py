"""Where a sidecar is in its life."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a sidecar is in its life; a lost root takes it back to the start of a daemon."""

    STARTING = "starting"
    RESTORING = "restoring"
    STARTING_DAEMON = "starting-daemon"
    READY = "ready"
    DRAINING = "draining"
    PUBLISHING = "publishing"
    STOPPED = "stopped"


WAITING_FOR = {
    Phase.STARTING: "the sidecar is starting",
    Phase.RESTORING: "the cache is being restored",
    Phase.STARTING_DAEMON: "buildkitd is starting",
    Phase.READY: "",
    Phase.DRAINING: "nothing: the sidecar is stopping",
    Phase.PUBLISHING: "nothing: the sidecar is stopping and publishes its last state",
    Phase.STOPPED: "nothing: the sidecar has stopped",
}
"""What a client that connects now waits for, unless the lifecycle knows better."""
