"""kill -9 of every process of a pod at many points; the next pod finds a whole generation.

``--kill-points N`` makes the campaign longer, ``--kill-seed`` repeats one. A lane is a store
and a chain of pods, each of which first shows that its predecessor's death left a generation
that is complete, and then meets its own fate.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.buildctl import Build
from tests.integration.commands import remove
from tests.integration.objects import Objects, Request, objects, undisturbed
from tests.integration.processes import VICTIMS, Remains, kill_one
from tests.integration.sidecars import Pod
from tests.integration.steady import Project

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(0),
    pytest.mark.usefixtures("machine"),
]

_LANES = 2
#: Share of the points at which the sidecar dies together with the victim.
_NODE_FAILS = 0.4
#: Workers are replaced and a task is done again: nobody may notice their death.
_UNNOTICED = frozenset({"unpacker", "packer"})


@dataclass(frozen=True)
class Moment:
    """A point in a pod's life: the ``nth`` request of a kind, or a time in a build, s.

    ``after`` seconds pass from there until the kill.
    """

    name: str
    phase: str
    method: str = ""
    prefix: str = ""
    done: bool = False
    nth: int = 1
    longest_after: float = 0.0


#: Restore, in the order in which it happens; then what follows a changed build.
MOMENTS = (
    Moment("heads listed", "restore", "LIST", "keys/"),
    Moment("head read", "restore", "GET", "keys/", done=True),
    Moment("root read", "restore", "GET", "roots/", done=True, longest_after=0.3),
    Moment("databases asked for", "restore", "GET", "packs/"),
    Moment("databases read", "restore", "GET", "packs/", done=True, longest_after=0.6),
    Moment("a layer asked for", "restore", "GET", "packs/", nth=4),
    Moment("a layer read", "restore", "GET", "packs/", done=True, nth=6, longest_after=0.1),
    Moment("build begins", "build", longest_after=0.05),
    Moment("build runs", "build", longest_after=0.7),
    Moment("build ended", "publish", longest_after=0.15),
    Moment("pack offered", "publish", "PUT", "packs/"),
    Moment("pack stored", "publish", "PUT", "packs/", done=True, longest_after=0.1),
    Moment("root offered", "publish", "PUT", "roots/"),
    Moment("root stored", "publish", "PUT", "roots/", done=True),
    Moment("head offered", "publish", "PUT", "keys/"),
    Moment("head stored", "publish", "PUT", "keys/", done=True, longest_after=0.1),
)


@dataclass(frozen=True)
class Point:
    """Who is killed when. ``node``: the sidecar in the same instant, as when a node fails."""

    moment: Moment
    victim: str
    after: float
    node: bool

    @property
    def fatal(self) -> bool:
        """Whether the sidecar dies."""
        return self.node or self.victim == "sidecar"


def draw(count: int, chance: random.Random) -> list[Point]:
    """Choose points; every moment and every victim comes up before any pair comes twice."""
    victims = [*VICTIMS]
    points: list[Point] = []
    while len(points) < count:
        chance.shuffle(victims)
        for turn in range(len(victims)):
            shuffled = chance.sample(MOMENTS, len(MOMENTS))
            for index, moment in enumerate(shuffled):
                victim = victims[(index + turn) % len(victims)]
                after = chance.uniform(0, moment.longest_after)
                node = victim not in _UNNOTICED and chance.random() < _NODE_FAILS
                points.append(Point(moment, victim, after, node))
    return points[:count]


@dataclass
class Lane:
    """A store, and what is known of its newest generation."""

    directory: Path
    store: Objects
    project: Project
    chance: random.Random
    newest: int = 0
    #: What that generation has cached, and what is being built.
    revision: int = 0
    building: int = 0
    pods: int = 0
    #: What the pods after a death found; the key says which generation it was.
    found: Counter[str] = field(default_factory=Counter)
    #: What each death left, ``old`` or ``new``, until a pod has lived to find it.
    left: list[str] = field(default_factory=list)
    again: Path | None = None

    def pod(self) -> Pod:
        """A pod to be started, on a killed sidecar's root once more or on a fresh one."""
        root, self.again = self.again, None
        if root is None:
            self.pods += 1
            root = self.directory / f"pod-{self.pods}"
        return Pod(root, f"--store={self.store.url}", "--demand-timeout=5s")

    def published(self) -> int:
        """Number of the newest generation in the store."""
        return self.store.heads[-1]


class Fate:
    """Waits for the point's moment and kills."""

    def __init__(self, lane: Lane, pod: Pod, point: Point) -> None:
        self._lane = lane
        self._pod = pod
        self.point = point
        self.struck = False
        #: Set when the moment has come, and when the sidecar is dead.
        self.tried = asyncio.Event()
        self.death = asyncio.Event()
        #: Number of the epoch that lost its process.
        self.epoch = 0
        self._remains: Remains | None = None
        self._seen = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def arm(self) -> None:
        """Begin to watch, from the next request or from now on."""
        if self.point.moment.method:
            self._lane.store.hook = self._watch
        else:
            self._later()

    async def _watch(self, request: Request) -> None:
        moment = self.point.moment
        if (request.method, request.done) != (moment.method, moment.done):
            return
        self._seen += request.name.startswith(moment.prefix)
        if self._seen == moment.nth:
            self._lane.store.hook = undisturbed
            if self.point.after:
                self._later()
            else:
                self.strike()

    def _later(self) -> None:
        task = asyncio.create_task(self._delayed())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _delayed(self) -> None:
        await asyncio.sleep(self.point.after)  # The random offset from an event.
        self.strike()

    def strike(self) -> None:
        """Kill now, unless it has happened; a victim that is not there yet gets another chance."""
        if self.struck:
            return
        self.epoch = max((int(path.name.partition("-")[2]) for path in self._pod.epochs), default=0)
        remains = Remains(self._pod)
        self.struck = kill_one(self._pod, self.point.victim, self._lane.chance)
        if self.struck and self.point.fatal:
            kill_one(self._pod, "sidecar", self._lane.chance)
            self._remains = remains
            self.death.set()
        else:
            remains.forget()
        self.tried.set()

    async def bury(self) -> None:
        """After the sidecar's death: nothing of it is left."""
        assert self._remains is not None
        await self._remains.gone()

    def cancel(self) -> None:
        """Kill nothing any more."""
        self._lane.store.hook = undisturbed
        for task in self._tasks:
            task.cancel()


async def test_no_death_costs_the_next_pod_its_cache(
    directory: Path, pytestconfig: pytest.Config, report: Callable[[str], None]
) -> None:
    seed = pytestconfig.getoption("--kill-seed") or random.SystemRandom().randrange(1 << 32)
    points = draw(pytestconfig.getoption("--kill-points"), random.Random(seed))
    report(f"kill: {len(points)} points, --kill-seed={seed}")
    found = await kill_at(directory, points, seed)
    report(f"kill: after {sum(found.values())} deaths the next pod found {dict(found)}")
    assert not found["cold"]
    assert found["new"]
    assert found["old"]


async def kill_at(directory: Path, points: Sequence[Point], seed: int) -> Counter[str]:
    """Kill at each point; how often the pod after a death found what (``Lane.found``)."""
    queue = asyncio.Queue[Point]()
    for point in points:
        queue.put_nowait(point)
    async with asyncio.TaskGroup() as group:
        running = [
            group.create_task(_lane(directory / f"{number}", queue, random.Random(seed + number)))
            for number in range(_LANES)
        ]
    found: Counter[str] = Counter()
    for task in running:
        found += task.result()
    return found


async def _lane(
    directory: Path, queue: asyncio.Queue[Point], chance: random.Random
) -> Counter[str]:
    directory.mkdir()
    async with objects(directory / "store") as store:
        lane = Lane(directory, store, Project(directory / "context"), chance)
        await _seed(lane)
        while not queue.empty():
            point = queue.get_nowait()
            try:
                await _meet(lane, point)
            except BaseException as failure:
                failure.add_note(f"{point}; the newest generation was {lane.newest}")
                raise
        # The last death, too, is judged by a pod that comes after it.
        async with _running(lane) as pod:
            await pod.ready()
            await _find(lane, pod)
    return lane.found


async def _seed(lane: Lane) -> None:
    async with _running(lane) as pod:
        await pod.ready()
        build, archive = await lane.project.build(pod, lane.revision)
        build.ok()
        lane.project.check(archive, lane.revision)
        assert await pod.stop() == 0
    lane.newest = lane.published()


@asynccontextmanager
async def _running(lane: Lane) -> AsyncIterator[Pod]:
    """Start a pod; in the end nothing of it is left but a root that is to be used again."""
    pod = lane.pod()
    await pod.start()
    try:
        yield pod
    except BaseException as failure:
        failure.add_note(f"{pod.root.name}:\n{pod.log[-4000:]}")
        raise
    finally:
        await pod.kill()
        if lane.again != pod.root:
            await remove(pod.root)


async def _meet(lane: Lane, point: Point) -> None:
    """Run one pod until its sidecar is dead, or to its end if that is what the victim allows."""
    async with _running(lane) as pod:
        fresh = not (pod.root / "endpoint.json").exists()
        fate = Fate(lane, pod, point)
        story = asyncio.create_task(_story(lane, pod, fate))
        death = asyncio.create_task(fate.death.wait())
        try:
            await asyncio.wait([story, death], return_when=asyncio.FIRST_COMPLETED)
            if not fate.death.is_set():
                story.result()
            else:
                story.cancel()
                await asyncio.gather(story, return_exceptions=True)
                await fate.bury()
                lane.again = pod.root if fresh else None
        finally:
            fate.cancel()
            for task in (story, death):
                task.cancel()
            await asyncio.gather(story, death, return_exceptions=True)
    assert fate.struck, f"nobody was killed at {point}"
    _leave(lane)


def _leave(lane: Lane) -> None:
    """See what a death left in the store."""
    number = lane.published()
    lane.left.append("new" if number > lane.newest else "old")
    if number > lane.newest:
        lane.revision = lane.building
    lane.newest = number


async def _story(lane: Lane, pod: Pod, fate: Fate) -> None:
    """What a pod does: builds what its generation holds, then a change; and stops."""
    lane.building = lane.revision
    early = fate.point.moment.phase == "restore"
    if early:
        fate.arm()
    await pod.ready()
    if fate.struck:
        await _build(lane, pod, fate)
    else:
        await _find(lane, pod, fate)
    if not early:
        lane.building += 1
        await _change(lane, pod, fate)
    if not fate.struck:
        # Such as a packer before the first build, when there is none.
        fate.strike()
        await _build(lane, pod, fate)
    assert await pod.stop() == 0
    if fate.point.victim in _UNNOTICED:
        assert lane.published() > lane.newest, "nothing was published"


async def _find(lane: Lane, pod: Pod, fate: Fate | None = None) -> None:
    """A pod after a death: its generation is the newest one, complete, and right."""
    restored = (await pod.status())["restored"]
    for left in lane.left:
        lane.found[left if restored else "cold"] += 1
    lane.left.clear()
    assert restored, "cold although a generation exists"
    assert restored["number"] == lane.newest
    build, archive = await lane.project.build(pod, lane.revision)
    if fate is not None and fate.struck:
        # Restore was still going on: the victim died during the build.
        await _settle(lane, pod, fate, build, archive)
        return
    assert build.ok().ran == []
    lane.project.check(archive, lane.revision)
    lane.newest = (await pod.published(lane.newest + 1))["published"]["number"]


async def _change(lane: Lane, pod: Pod, fate: Fate) -> None:
    """Build a change, during or after which the victim is killed."""
    moment = fate.point.moment
    if moment.phase == "build" or moment.method:
        fate.arm()
    await _build(lane, pod, fate)
    if moment.phase == "publish":
        if not moment.method:
            fate.arm()
        await fate.tried.wait()


async def _build(lane: Lane, pod: Pod, fate: Fate) -> None:
    build, archive = await lane.project.build(pod, lane.building)
    await _settle(lane, pod, fate, build, archive)


async def _settle(lane: Lane, pod: Pod, fate: Fate, build: Build, archive: Path) -> None:
    """A build may fail of its victim's death only; run again, it succeeds. Its image is right."""
    excused = fate.struck and fate.point.victim not in _UNNOTICED
    if build.code and excused:
        if fate.point.victim != "buildkitd":
            await pod.until(lambda state: state["ready"] and state["epoch"] > fate.epoch)
        build, archive = await lane.project.build(pod, lane.building)
    build.ok()
    lane.project.check(archive, lane.building)
