"""Point 8: how fast a pod restores, beside what network, disk and processors allow.

As a program, ``python -m tests.campaign.throughput WHAT …``, it measures one of the limits.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from buildsvc.cache import chunks, packs
from perf.host import REPOSITORY, environment
from tests.campaign.points import CampaignError, Found, Part, Point, Scene
from tests.integration.contexts import context
from tests.integration.sidecars import Pod, pod
from tests.integration.stored import Stored

SHARE = 0.8
"""Of what the lowest of the three limits allows."""
RATES = {"200 Mbit per s": "200mbit", "1 Gbit per s": "1gbit", "unshaped": ""}
#: What is restored: layers, files of 1 MiB in each, and how often a block comes in these.
_LAYERS, _FILES, _REPEATED = 16, 96, 3
_CONNECTIONS = 8

# Its loopback has the rate; a sidecar runs there as outside, its namespace one inside.
_NAMESPACE = """\
set -e
rm /etc/subuid /etc/subgid
echo root:1:60000 | tee /etc/subuid > /etc/subgid
ip link set lo up
[ -z "$1" ] || tc qdisc add dev lo root tbf rate "$1" burst 256kb latency 100ms
echo $$
exec cat
"""


@asynccontextmanager
async def _network(rate: str) -> AsyncIterator[tuple[str, ...]]:
    """What a command begins with that is to run where the network has this rate."""
    child = await asyncio.create_subprocess_exec(
        "rootlesskit", "--net=none", "--copy-up=/etc", "--copy-up=/run",
        "sh", "-c", _NAMESPACE, "sh", rate,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        said = await child.stdout.readline()
        if not said:
            raise CampaignError(f"no network namespace with a rate of {rate} can be made")
        options = ("--user", "--mount", "--net", "--preserve-credentials", f"--wd={REPOSITORY}")
        yield ("nsenter", f"--target={int(said)}", *options)
    finally:
        child.stdin.close()
        await child.wait()


@asynccontextmanager
async def _served(store: Path, enter: Sequence[str]) -> AsyncIterator[str]:
    child = await asyncio.create_subprocess_exec(
        *enter, sys.executable, "-m", "perf.objectserver", f"--directory={store}",
        stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY, env=environment(),
    )  # fmt: skip
    assert child.stdout is not None
    try:
        yield (await child.stdout.readline()).decode().strip()
    finally:
        child.terminate()
        await child.wait()


async def _restore(scene: Scene, name: str, tries: int) -> Found:
    store = (await _seed(scene)).directory
    reached: list[float] = []
    async with _network(RATES[name]) as enter, _served(store, enter) as url:
        limits = {
            "network": await _limit(enter, "network", url, store),
            "disk": await _limit(enter, "disk", scene.directory, store),
            "processors": await _limit(enter, "processors", url, scene.directory, store),
        }
        for number in range(1, tries + 1):
            reached.append(await _rate(scene, url, enter))
            scene.say(f"{number} of {tries}: {reached[-1]:.0f} MB/s; allowed: {_shown(limits)}")
    median = statistics.median(reached)
    share = median / min(limits.values())
    figures = {
        "tries": tries,
        name: {
            "restored_MB_per_s": median,
            "share_of_the_lowest": share,
            **{f"{limit}_allows_MB_per_s": value for limit, value in limits.items()},
        },
    }
    miss = f"{median:.0f} MB/s, {share:.2f} of the lowest of {_shown(limits)}"
    return Found(figures, [] if share >= SHARE else [miss])


def _shown(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f} MB/s" for name, value in limits.items())


async def _seed(scene: Scene) -> Stored:
    """A store with one generation, of layers that are restored whole."""
    directory = scene.directory / "seed"
    layers = [f"COPY layer-{number} /layer-{number}" for number in range(_LAYERS)]
    place = context(directory / "context", "\n".join(["FROM scratch", *layers, ""]))
    chance = random.Random(scene.seed)
    for number in range(_LAYERS):
        await asyncio.to_thread(_write_layer, place / f"layer-{number}", chance)
    async with pod(directory / "pod", f"--store={directory / 'store'}") as first:
        await first.build(place)
        await first.published(1)
        assert await first.stop() == 0
    return Stored(directory / "store")


def _write_layer(path: Path, chance: random.Random) -> None:
    """Files of 1 MiB that zstd makes a third of."""
    path.mkdir()
    for number in range(_FILES):
        block = b"".join(chance.randbytes(512) * _REPEATED for _ in range((1 << 20) // 1536))
        (path / f"{number}").write_bytes(block)


async def _rate(scene: Scene, url: str, enter: Sequence[str]) -> float:
    """Restore everything in a fresh pod; megabytes of the store's objects a second."""
    root = scene.directory / "pod"
    async with Pod(root, f"--store={url}", "--restore=complete", prefix=enter) as one:
        await one.ready()
        state = await one.status()
        assert state["restored"], state["cold_reason"]
        spans = [span for span in state["timeline"] if span["kind"] == "fetch"]
        assert {span["outcome"] for span in spans} == {"ok"}
        seconds = max(span["end"] for span in spans) - min(span["begin"] for span in spans)
        return float(sum(span["bytes"] for span in spans) / seconds / 1e6)


async def _limit(enter: Sequence[str], *arguments: str | Path) -> float:
    """Run one of the measurements below where the sidecar runs; megabytes a second."""
    argv = [*enter, sys.executable, "-m", "tests.campaign.throughput", *map(str, arguments)]
    child = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY, env=environment()
    )
    out, _ = await child.communicate()
    if child.returncode:
        raise CampaignError(f"{argv} ended with {child.returncode}")
    return float(out)


def _get(url: str) -> bytes:
    # No proxy is between the pod and its store.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=60) as answer:
        return bytes(answer.read())


def _names(store: str) -> list[str]:
    return [str(path.relative_to(store)) for path in sorted(Path(store).glob("packs/*/*"))]


def network(url: str, store: str) -> None:
    """Read all packs over several connections."""
    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        list(threads.map(_get, [f"{url}/{name}" for name in _names(store)]))


def disk(directory: str, store: str) -> None:
    """Write what the packs hold, as large files."""
    block = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=directory) as file:
        for name in _names(store):
            data = (Path(store) / name).read_bytes()
            for _ in range(sum(packs.read_index(data, len(data)).lengths) >> 20):
                file.write(block)


def _unpack(url: str, directory: Path) -> None:
    data = _get(url)
    index = packs.read_index(data, len(data))
    with memoryview(data) as view, tempfile.TemporaryDirectory(dir=directory) as name:
        columns = zip(index.digests, index.offsets, index.stored, index.lengths, strict=True)
        for number, (digest, offset, stored, length) in enumerate(columns):
            chunk = chunks.decode(view[offset : offset + stored], length, digest)
            (Path(name) / str(number)).write_bytes(chunk)


def processors(url: str, directory: str, store: str) -> None:
    """What cannot be spared: receive, decompress, verify and write, on every processor."""
    urls = [f"{url}/{name}" for name in _names(store)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_unpack, urls, itertools.repeat(Path(directory))))


def main(argv: Sequence[str]) -> int:
    """The program."""
    what, *arguments = argv
    began = time.monotonic()
    measures: dict[str, Callable[..., None]] = {
        "network": network,
        "disk": disk,
        "processors": processors,
    }
    measures[what](*arguments)
    seconds = time.monotonic() - began
    store = Path(arguments[-1])
    print(sum((store / name).stat().st_size for name in _names(str(store))) / seconds / 1e6)
    return 0


def _parts(tries: int) -> list[Part]:
    def part(name: str) -> Part:
        return Part(name, lambda scene: asyncio.run(_restore(scene, name, tries)))

    return [part(name) for name in RATES]


POINT = Point(
    number=8,
    name="throughput",
    claim=f"Restore reaches at least {SHARE:.0%} of what the network, the disk or the processors"
    " allow, whichever is lowest.",
    unit="pods at each rate of the network",
    full=5,
    quick=1,
    parts=_parts,
    minutes="5 minutes, quick 3",
    room=8 << 30,
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
