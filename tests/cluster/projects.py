"""What the pods build."""

from __future__ import annotations

from tests.cluster.machinery import Registry
from tests.cluster.pipeline import Project

_LAYERS = """\
FROM {base} AS packages
RUN dd if=/dev/urandom of=/packages bs=1M count={size}
FROM {base} AS app
COPY --from=packages /packages /packages
RUN --mount=type=cache,target=/cache echo built >>/cache/log && cp /cache/log /log
COPY greeting /greeting
RUN sha256sum /greeting /packages >/sums && id && cat /sums
"""
#: What compiles: some seconds of work, in which the sidecar restores.
_WORK = "sed s/NAME/world/ greeting.in >greeting && head -c 1500M /dev/zero | sha256sum"


def layers(registry: Registry, *more: str, size: int = 64) -> Project:
    """A project of two stages with MiB of random bytes, so that it is never built twice alike."""
    dockerfile = _LAYERS.format(base=registry.busybox, size=size) + "".join(more)
    files = {"Dockerfile": dockerfile, "greeting.in": "NAME\n"}
    return Project(files, ("sh", "-c", _WORK))


def instructions(registry: Registry, *lines: str, base: str = "") -> Project:
    """A project with nothing to compile, of instructions on a base image, busybox by default."""
    text = "\n".join([f"FROM {base or registry.busybox}", *lines, ""])
    return Project({"Dockerfile": text, "greeting.in": "NAME\n"})
