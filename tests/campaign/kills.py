"""Point 1: kill -9 of a pod's processes, as tests/integration/test_kill.py does it."""

from __future__ import annotations

import asyncio
import random

from tests.campaign.points import Found, Part, Point, Scene, pieces
from tests.integration.test_kill import draw, kill_at

_POINTS_OF_A_PART = 40


async def _kill(scene: Scene, count: int) -> Found:
    seed = random.Random(scene.seed).randrange(1 << 32)
    scene.say(f"--kill-seed={seed}")
    found = await kill_at(scene.directory, draw(count, random.Random(seed)), seed)
    misses = [f"{found['cold']} pods were cold although a generation existed"]
    figures = {"points": count, "the_next_pod_found": {"cold": 0, **found}}
    return Found(figures, misses if found["cold"] else [])


def _parts(points: int) -> list[Part]:
    def part(first: int, count: int) -> Part:
        return Part(f"from {first}", lambda scene: asyncio.run(_kill(scene, count)))

    return [part(first, count) for first, count in pieces(points, _POINTS_OF_A_PART)]


POINT = Point(
    number=1,
    name="kills",
    claim="kill -9 of sidecar, rootlesskit, guard, agent, buildkitd or a worker at points spread"
    " over restore, build, checkpoint and publication: afterwards the old or the new generation,"
    " complete; the next pod finds everything cached; none is cold once a generation exists.",
    unit="points",
    full=1000,
    quick=16,
    parts=_parts,
    minutes="2 hours, quick 3 minutes",
    room=2 << 30,
)
