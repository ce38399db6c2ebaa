"""Point 9: what a hostile writer can put into a store is refused, or harms nobody.

As a program, ``python -m tests.campaign.hostile DIRECTORY SEED FIRST COUNT``, it tries some cases;
with a COUNT of 1 it is how one is repeated.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import zstandard

from buildsvc.cache import chunks, generations, packs, roots
from buildsvc.errors import BuildsvcError
from perf.host import program
from sidecar.plan import Plan
from tests.campaign.children import run_all, shares
from tests.campaign.forging import KEY, Forger
from tests.campaign.jail import Jail
from tests.campaign.points import Found, Part, Point, Scene, pieces

MEMORY = 256
"""MiB that a process may have in memory."""
#: MiB of addresses: what goes far beyond the limit is ended before the machine is.
_ADDRESSES = 2048
#: Seconds for a case; making 600,000 files takes ten.
_LONGEST = 60
_CASES_OF_A_PART = 20_000
_HOURS = 1.0
_MOST_MISSES = 5
#: One case in so many is large.
_BOMBS = 5000
_KINDS = ("tree",) * 10 + ("pack",) * 4 + ("root",) * 3 + ("chunk",) * 2 + ("head",)


def _parts(cases: int) -> list[Part]:
    def part(first: int, count: int) -> Part:
        return Part(f"from {first}", lambda scene: _try(scene, first, count))

    return [part(first, count) for first, count in pieces(cases, _CASES_OF_A_PART)]


def _try(scene: Scene, first: int, count: int) -> Found:
    argvs = []
    for number, (start, cases) in enumerate(shares(first, count)):
        directory = scene.directory / f"jail-{number}"
        directory.mkdir()
        # As in a pod: root of a user namespace that has other users too.
        argvs.append([
            program("rootlesskit"), sys.executable, "-m", "tests.campaign.hostile",
            str(directory), scene.seed.rpartition("/")[0], str(start), str(cases),
        ])  # fmt: skip
    return run_all(argvs, scene.directory, {}, _HOURS)


class Hangs(BaseException):
    """A case takes too long; nobody catches it."""


class Judge:
    """Tries cases, one after another."""

    def __init__(self, directory: Path, seed: str) -> None:
        self._jail = Jail(directory)
        self._seed = seed
        self._base = _memory("VmRSS")
        self.most_memory = 0
        self.counts: Counter[str] = Counter()
        self.misses: list[str] = []

    def try_case(self, number: int) -> None:
        """Make a case and see what comes of it."""
        chance = random.Random(f"{self._seed}/{number}")
        forger = Forger(chance, str(self._jail.outside).encode())
        if chance.randrange(_BOMBS) == 0:
            kind, data = forger.bomb()
            self.counts["bombs"] += 1
        else:
            kind = chance.choice(_KINDS)
            data = b"" if kind == "chunk" else getattr(forger, kind)()
        self.counts["cases"] += 1
        # What earlier cases took, Python and the allocator may still have.
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        try:
            with _hurried():
                self._read(kind, data, forger)
        except (BuildsvcError, OSError):
            self.counts[f"{kind}s_refused"] += 1
        except (Exception, Hangs):  # noqa: BLE001 - that is what a miss is
            self._miss(number, kind, traceback.format_exc(limit=-6))
        else:
            self.counts[f"{kind}s_taken"] += 1
        memory = _memory("VmHWM") - before + self._base
        self.most_memory = max(self.most_memory, memory)
        if memory > MEMORY:
            self._miss(number, kind, f"{memory} MiB of memory for {len(data)} bytes")
        if breach := self._jail.breach():
            self._miss(number, kind, breach)

    def _read(self, kind: str, data: bytes, forger: Forger) -> None:
        match kind:
            case "tree":
                self._jail.materialise(data)
            case "pack":
                packs.verify(data, chunks.digest(data))
            case "chunk":
                chunks.decode(*forger.chunk())
            case "root":
                stored = zstandard.ZstdCompressor(level=1).compress(data)
                root = roots.decode_root(forger.damaged(stored, 0.1), chunks.digest(data))
                Plan(root)
            case _:
                generations._decode_head(data, KEY, 7, None)

    def _miss(self, number: int, kind: str, text: str) -> None:
        self.counts["misses"] += 1
        if len(self.misses) < _MOST_MISSES:
            self.misses.append(f"case {number} ({kind}) of seed {self._seed}: {text}")


@contextmanager
def _hurried() -> Iterator[None]:
    signal.alarm(_LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)


def _too_slow(_number: int, _frame: object) -> None:
    raise Hangs(f"not done after {_LONGEST} s")


def _memory(what: str) -> int:
    """Return MiB: VmRSS is now, VmHWM the most since that was forgotten (proc(5), clear_refs)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0]) >> 10


def main(argv: Sequence[str]) -> int:
    """The program."""
    directory, seed, first, count = argv
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES << 20, _ADDRESSES << 20))
    signal.signal(signal.SIGALRM, _too_slow)
    judge = Judge(Path(directory).resolve(), seed)
    for number in range(int(first), int(first) + int(count)):
        judge.try_case(number)
    figures = {**judge.counts, "most_memory_MiB": judge.most_memory}
    print(json.dumps(asdict(Found(figures, judge.misses))))
    return 0


POINT = Point(
    number=9,
    name="hostile",
    claim="Hostile trees, packs, roots and heads: no path outside the root, at most"
    f" {MEMORY} MiB of memory, no hang, and no error but the expected ones.",
    unit="cases",
    full=1_000_000,
    quick=20_000,
    parts=_parts,
    minutes="30 minutes, quick 1",
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
