"""What Kaniko's executor says: its steps, which of them were cached, and what it did when.

Its own time stamps have whole seconds (``--log-format=json``: logrus' RFC 3339), so lines come
with the time at which they were read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from perf.comparison.peers.contract import Span

#: Instructions that BuildKit counts as steps as well; the rest change the image's settings alone.
_STEPS = frozenset({"ADD", "COPY", "RUN", "WORKDIR"})
_SETTINGS = frozenset(
    {
        "ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER",
        "ONBUILD", "SHELL", "STOPSIGNAL", "USER", "VOLUME",
    }
)  # fmt: skip

_CACHED = "Using caching version of cmd: "
_RUNNING = "Running: "
#: Beginnings of messages, and what Kaniko does from then on. The base image, and what a stage
#: copies from an earlier one, is unpacked and hashed without a word.
_PHASES = {
    "Retrieving image": "manifests",
    "Building stage": "hash",
    "Checking for cached layer": "look-up",
    _CACHED: "unpack",
    "No cached layer found": "unpack",
    "Unpacking rootfs": "unpack",
    "Taking snapshot": "snapshot",
    "Saving file": "keep for later stages",
    "Storing source image": "keep for later stages",
    "Deleting filesystem": "delete file system",
}
#: Seconds below which a span is not shown.
_SHOWN = 0.02


class _Message(msgspec.Struct):
    """A line of Kaniko's own; whatever else there is, a RUN step has written."""

    level: str
    msg: str
    time: str


@dataclass
class Log:
    """What one build has said."""

    steps: int = 0
    cached: int = 0
    spans: list[Span] = field(default_factory=list)


def message(line: str) -> str | None:
    """Return what Kaniko says in this line; None for the output of a RUN step."""
    try:
        return msgspec.json.decode(line, type=_Message).msg
    except msgspec.MsgspecError:
        return None


def read_log(lines: Iterable[tuple[float, str]], images: Iterable[str], end: float) -> Log:
    """Read lines with the seconds at which they came, of builds that pushed ``images``."""
    pushes = {f"Pushing image to {image}" for image in images}
    log = Log()
    spans: list[tuple[float, str]] = [(0.0, "start")]
    step = ""
    for at, line in lines:
        said = message(line)
        if said is None:
            continue
        word = said.partition(" ")[0]
        log.cached += said.startswith(_CACHED)
        log.steps += word in _STEPS
        if word in _STEPS or word in _SETTINGS:
            step = said[:80]
            spans.append((at, step))
        elif said.startswith(_RUNNING):
            # After the first snapshot, which Kaniko takes before the first RUN.
            spans.append((at, step))
        elif said in pushes:
            spans.append((at, "push"))
        else:
            spans += [(at, name) for begin, name in _PHASES.items() if said.startswith(begin)]
    log.spans = _joined(spans, end)
    return log


def _joined(begun: list[tuple[float, str]], end: float) -> list[Span]:
    """Let each last until the next one of another name."""
    spans: list[Span] = []
    for (began, name), (ended, _) in zip(begun, [*begun[1:], (end, "")], strict=True):
        if spans and spans[-1][0] == name:
            spans[-1] = (name, spans[-1][1], round(ended, 3))
        else:
            spans.append((name, round(began, 3), round(ended, 3)))
    return [span for span in spans if span[2] - span[1] >= _SHOWN]
