"""Point 7: what a changed line costs to publish again, however large the cache is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf.ballast import FILL
from perf.bench.site import KEY, Site, site
from perf.build import Built
from perf.change import Line
from perf.generation import newest
from perf.host import stored_bytes
from perf.pod import publication_end
from perf.project import Project
from perf.snapshotdiff import zstd_size
from tests.campaign.points import Found, Part, Point, Scene

RATIO, ALLOWANCE = 1.1, 1_000_000
"""Bytes that may be uploaded: so often the plain difference, and so many more."""
TAIL = 1.0
"""Seconds from the end of the push to the end of ``buildctl``."""
#: Bytes of an artefact that one of the changes makes.
_ARTEFACT = 20_000_000
_LAYER = 512
_PUBLISHED_WITHIN = 900.0
#: Seconds from a pod's start to its build.
_HEAD_START = 10.0

_DOCKERFILE = """\
ARG BASE
FROM ${{BASE}} AS data
{layers}
RUN du -sb /data > /size
FROM ${{BASE}}
COPY --from=data /size /size
COPY revision /revision
RUN cat /size /revision > /said{artefact}
"""


@dataclass(frozen=True)
class Cache:
    """How large it is, MiB, and how much the changed line makes anew, bytes."""

    size: int
    artefact: int

    def project(self, scratch: Path, base: str) -> Project:
        """Write its project."""
        context = scratch / "context"
        context.mkdir()
        (context / "revision").write_text("revision 0\n")
        layers = "\n".join(
            f"RUN mkdir -p /data && {FILL} {_LAYER} > /data/{number}"
            for number in range(max(self.size // _LAYER, 1))
        )
        made = f" && head -c {self.artefact} /dev/urandom > /artefact" if self.artefact else ""
        (context / "Dockerfile").write_text(_DOCKERFILE.format(layers=layers, artefact=made))
        change = Line("revision", r"^revision .*$", "revision {}")
        return Project("increments", context, context / "Dockerfile", change, {"BASE": base})


CACHES = {
    "1 GB, a line": Cache(1024, 0),
    "1 GB, a line and 20 MB": Cache(1024, _ARTEFACT),
    "10 GB, a line": Cache(10_240, 0),
}


def _measure(scene: Scene, cache: Cache, changes: int) -> Found:
    misses: list[str] = []
    with site("sample", scene.directory) as place:
        base = place.project.arguments["BASE"]
        place.project = cache.project(scene.directory, base)
        place.new_store()
        _publish(place, fresh=False)
        figures = [_publish(place, fresh=True) for _ in range(changes)]
    for number, one in enumerate(figures, 1):
        allowed = RATIO * one["plain"] + ALLOWANCE
        scene.say(f"change {number}: {one}")
        if one["uploaded"] > allowed:
            misses.append(
                f"change {number}: {one['uploaded']} bytes uploaded, {allowed:.0f} allowed: {one}"
            )
        if one["tail"] > TAIL:
            misses.append(f"change {number}: {one['tail']:.2f} s from the push to the end")
    return Found(
        {
            "changes": changes,
            "bytes_uploaded": sum(one["uploaded"] for one in figures),
            "bytes_of_the_difference": sum(one["plain"] for one in figures),
            "most_bytes_uploaded_for_a_change": max(one["uploaded"] for one in figures),
            "most_seconds_from_push_to_end": max(one["tail"] for one in figures),
            "most_seconds_to_publication": max(one["published"] for one in figures),
        },
        misses,
    )


def _publish(place: Site, *, fresh: bool) -> dict[str, Any]:
    """Build and publish in a pod of its own; ``fresh``: a changed line, measured."""
    before = newest(place.store, KEY) if fresh else None
    size = stored_bytes(place.store) if fresh else 0
    if fresh:
        place.revise()
    with place.pod() as pod:
        pod.start(watched=False)
        pod.wait_answer()
        if fresh:
            time.sleep(_HEAD_START)
        built = pod.build(place.job("pod"))
        status = pod.wait_published(built.ended_unix, _PUBLISHED_WITHIN)
        figures: dict[str, Any] = {}
        if before is not None:
            after = newest(place.store, KEY)
            figures = {
                "uploaded": stored_bytes(place.store) - size,
                "plain": zstd_size(pod.root, status["epoch"], after.added(before)),
                "tail": built.ended_unix - _last_step(built),
                "published": publication_end(status) - built.ended_unix,
                "parts": after.new_bytes(before),
            }
        code = pod.stop(_PUBLISHED_WITHIN)
        assert code == 0, f"the pod ended with {code}: {pod.log_end()}"
    return figures


def _last_step(built: Built) -> float:
    """When the last step of the build ended, which is the push: Unix seconds."""
    return max(step.ended_unix for step in built.progress.steps.values())


def _parts(changes: int) -> list[Part]:
    def part(name: str) -> Part:
        return Part(name, lambda scene: _measure(scene, CACHES[name], changes))

    return [part(name) for name in CACHES]


POINT = Point(
    number=7,
    name="increments",
    claim=f"A changed line in a cache of 1 and of 10 GB: at most {RATIO} times `zstd -3` of the"
    f" changed snapshots and 1 MB are uploaded, and the step ends at most {TAIL:g} s after its"
    " push.",
    unit="changes of each cache",
    full=5,
    quick=1,
    parts=_parts,
    minutes="10 minutes, quick 3",
    room=18 << 30,
)
