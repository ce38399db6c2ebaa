"""Point 2: bits of a store's objects are flipped, objects are cut; nobody gets a wrong byte."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildsvc.cache import chunks, generations, packs, roots
from buildsvc.cache.signing import SigningKey, VerifyKey, VerifyKeys
from buildsvc.errors import CacheError
from tests.campaign.points import Found, Part, Point, Scene, pieces
from tests.integration.objects import objects
from tests.integration.seed import KEY
from tests.integration.sidecars import Pod, State, pod
from tests.integration.steady import Project
from tests.integration.stored import Stored

_PODS_OF_A_PART = 100
#: One bit of so many is flipped alone, which shows what a bit costs, the others in such lots.
_ALONE = 10
_LOT = 20
#: Pods at a time.
_LANES = 2
_NEWEST = 2

Spoil = Callable[[Stored, random.Random], None]


async def _seed(scene: Scene) -> Stored:
    """A store with two generations of the steady project."""
    directory = scene.directory / "seed"
    project = Project(directory / "context")
    async with pod(directory / "pod", f"--store={directory / 'store'}") as first:
        for revision in range(_NEWEST):
            build, archive = await project.build(first, revision)
            build.ok()
            project.check(archive, revision)
            await first.published(revision + 1)
        assert await first.stop() == 0
    return Stored(directory / "store")


def _flip(bits: int) -> Spoil:
    """Any bits of any packs, each as likely."""

    def flip(store: Stored, chance: random.Random) -> None:
        paths = sorted(store.directory.glob("packs/*/*"))
        sizes = [path.stat().st_size for path in paths]
        for path, count in Counter(chance.choices(paths, sizes, k=bits)).items():
            data = bytearray(path.read_bytes())
            for bit in chance.sample(range(8 * len(data)), count):
                data[bit // 8] ^= 1 << bit % 8
            path.unlink()
            path.write_bytes(data)

    return flip


def _cut_at(pack: str, size: int) -> Spoil:
    def cut(store: Stored, _: random.Random) -> None:
        path = store.directory / pack
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[:size])

    return cut


def _frames(store: Stored) -> list[Spoil]:
    """A cut at the beginning of each frame of each pack, of the index, and of the trailer."""
    cuts = []
    for path in sorted(store.directory.glob("packs/*/*")):
        data = path.read_bytes()
        index = packs.read_index(data, len(data))
        chunk_bytes = sum(index.stored)
        ends = [*index.offsets, chunk_bytes, len(data) - packs.TRAILER_SIZE]
        cuts += [_cut_at(str(path.relative_to(store.directory)), end) for end in ends]
    return cuts


async def _pods(scene: Scene, spoils: list[tuple[str, Spoil]], store: Stored) -> dict[str, int]:
    """Spoil copies of a store, each in one way, let a pod live with each, count what it cost."""
    counts = Counter[str]()
    left = list(reversed(spoils))

    async def lane(number: int) -> None:
        project = Project(scene.directory / f"lane-{number}" / "context")
        while left:
            name, spoil = left.pop()
            try:
                counts[await _live(project, store, name, spoil)] += 1
            except BaseException as error:
                error.add_note(name)
                raise
            done = sum(counts.values())
            if done % 10 == 0:
                scene.say(f"pod {done} of {len(spoils)}: {dict(counts)}")

    async with asyncio.TaskGroup() as group:
        for number in range(_LANES):
            group.create_task(lane(number))
    return dict(counts)


async def _live(project: Project, store: Stored, name: str, spoil: Spoil) -> str:
    """Say what the damage has cost; the image is right in any case."""
    chance = random.Random(name)
    base = project.directory.parent
    place = base / "store"
    await asyncio.to_thread(shutil.copytree, store.directory, place)
    try:
        spoil(Stored(place), chance)
        # The newest one's own, which needs blobs only, the one before, and another.
        revision = chance.choice((_NEWEST - 1, _NEWEST - 2, _NEWEST))
        async with objects(place) as served:
            flags = (f"--store={served.url}", "--demand-timeout=3s")
            async with Pod(base / "pod", *flags) as one:
                await one.ready()
                build, archive = await project.build(one, revision)
                if build.code:
                    await one.until(lambda s: s["ready"] and s["advice"]["what"] == "run-again")
                    build, archive = await project.build(one, revision)
                build.ok()
                project.check(archive, revision)
                # Damage that the pod has not come upon it does not know: it comes upon all first.
                await one.until(lambda s: s["restored"] is None or s["objects"]["left"] == 0)
                await one.checkpoint()
                state = await one.status()
                assert await one.stop() == 0
            # What the pod has published names nothing that is damaged.
            again = await _next(base, project, served.url, revision, state)
        return f"{_cost(state)}, steps run again" if again else _cost(state)
    finally:
        await asyncio.to_thread(shutil.rmtree, place)


async def _next(base: Path, project: Project, url: str, revision: int, before: State) -> bool:
    """Whether the pod after it had to run steps again whose layer nobody has any more."""
    if not before["published"]:
        return False
    async with Pod(base / "pod", f"--store={url}", "--restore=complete") as one:
        await one.ready()
        state = await one.status()
        assert state["restored"], state["cold_reason"]
        assert state["restored"]["number"] >= before["published"]["number"]
        build, archive = await project.build(one, revision)
        build.ok()
        project.check(archive, revision)
        assert await one.stop() == 0
        return bool(build.ran)


def _cost(state: State) -> str:
    if state["epoch"] > 1:
        after = "cold" if state["restored"] is None else "without_what_was_lost"
        return f"{after}_after_a_failed_build"
    if state["restored"] is None:
        return "cold"
    if state["restored"]["number"] < _NEWEST:
        return "older_generation"
    failed = any(s["kind"] == "fetch" and s["outcome"] == "failed" for s in state["timeline"])
    return "repaired" if failed or state["by"].get("errors") else "not_noticed"


async def _bits(scene: Scene, bits: int, pods: int) -> Found:
    store = await _seed(scene)
    spoils = [(f"{scene.seed} pod {number}", _flip(bits)) for number in range(pods)]
    found = await _pods(scene, spoils, store)
    return Found({"bits": bits * pods, "pods": pods, f"cost_of_{bits}_at_once": found})


async def _cuts(scene: Scene, most: int) -> Found:
    store = await _seed(scene)
    spoils = [(f"{scene.seed} cut {n}", cut) for n, cut in enumerate(_frames(store))]
    chosen = random.Random(scene.seed).sample(spoils, min(most, len(spoils)))
    found = await _pods(scene, chosen, store)
    return Found({"cuts": len(chosen), "pods": len(chosen), "cost_of_a_cut": found})


async def _every_byte(scene: Scene) -> Found:
    """Every byte of heads, roots and a pack, and every length, as the library reads them."""
    store = await _seed(scene)
    chance = random.Random(scene.seed)
    head, pack = _signed_head(store), _smallest_pack(store)
    root = store.root_file(_NEWEST).read_bytes()
    root_digest = store.head(_NEWEST).root
    public = VerifyKey(_PRIVATE.public_key())
    verify = VerifyKeys({(KEY.tenant, KEY.trust_domain): [public]})
    readers: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
        "head": (head, lambda data: generations._decode_head(data, KEY, _NEWEST, verify)),
        "root": (root, lambda data: roots.decode_root(data, root_digest)),
        "pack": (pack, lambda data: packs.verify(data, chunks.digest(pack))),
    }
    counts, misses = Counter[str](), []
    for name, (data, read) in readers.items():
        right = read(data)
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1 << chance.randrange(8)
            for spoilt in (bytes(changed), data[:at]):
                counts[name] += 1
                # A compressed frame has bits that mean nothing.
                with suppress(CacheError):
                    if read(spoilt) != right:
                        misses.append(f"{name}: changed or cut at byte {at}, and read")
    return Found({"bytes_changed_and_lengths": dict(counts)}, misses)


_PRIVATE = Ed25519PrivateKey.generate()


def _signed_head(store: Stored) -> bytes:
    head = store.head(_NEWEST)
    head.ClearField("signature")
    return SigningKey(_PRIVATE).sign(head)


def _smallest_pack(store: Stored) -> bytes:
    return min((path.read_bytes() for path in store.directory.glob("packs/*/*")), key=len)


def _parts(bits: int) -> list[Part]:
    def part(first: int, each: int, pods: int) -> Part:
        name = f"bits from {first}, {each} at once"
        return Part(name, lambda scene: asyncio.run(_bits(scene, each, pods)))

    lots = bits * (_ALONE - 1) // (_ALONE * _LOT)
    alone = bits - lots * _LOT
    return [
        Part("every byte", lambda scene: asyncio.run(_every_byte(scene))),
        Part("every frame", lambda scene: asyncio.run(_cuts(scene, bits))),
        *(part(first, 1, pods) for first, pods in pieces(alone, _PODS_OF_A_PART)),
        *(part(alone + first * _LOT, _LOT, pods) for first, pods in pieces(lots, _PODS_OF_A_PART)),
    ]


POINT = Point(
    number=2,
    name="flips",
    claim="Every byte of small objects and random bits of large ones flipped, packs cut at every"
    " frame: no wrong byte is served, the build succeeds, and what is published then is whole.",
    unit="bits",
    full=10_000,
    quick=40,
    parts=_parts,
    minutes="1 hour, quick 3 minutes",
    room=4 << 30,
)
