"""Point 4: collections of garbage beside writers and readers, against a model.

As a program, ``python -m tests.campaign.collection SEED FIRST COUNT``, it plays some steps.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import ClassVar

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from buildsvc.cache.keys import CacheKey
from tests.campaign.children import run_all, shares
from tests.campaign.points import Found, Part, Point, Scene, pieces
from tests.unit.cache.actors import ITEMS, Work
from tests.unit.cache.test_collect_model import (
    DAY_NS,
    FALLBACKS,
    OF_KEYS,
    OF_WRITERS,
    READING,
    CollectionModel,
)

CROWD = 8
"""Writers, and as many readers, that come at once."""
#: They and a collector.
ACTORS = 2 * CROWD + 1
_STEPS_OF_A_PART = 1000
#: Steps of a run from an empty store to the last collection, and runs for a seed.
_RUN = 100
_RUNS = 5
_HOURS = 2.0


def _parts(steps: int) -> list[Part]:
    def part(first: int, count: int) -> Part:
        return Part(f"from {first}", lambda scene: _play(scene, first, count))

    return [part(first, count) for first, count in pieces(steps, _STEPS_OF_A_PART)]


def _play(scene: Scene, first: int, count: int) -> Found:
    program = [sys.executable, "-m", "tests.campaign.collection", scene.seed]
    return run_all(
        [[*program, str(start), str(steps)] for start, steps in shares(first, count)],
        scene.directory,
        {"BUILDSVC_MODEL_ACTORS": str(ACTORS)},
        _HOURS,
    )


_WRITERS = st.tuples(
    OF_KEYS,
    FALLBACKS,
    st.frozensets(st.integers(0, ITEMS - 1), min_size=1, max_size=3),
    st.integers(-DAY_NS, DAY_NS),
    st.sampled_from(OF_WRITERS),
)
_READERS = st.tuples(OF_KEYS, READING)


class Counted(CollectionModel):
    """Counts what is played, over all runs, and has a crowd come at times."""

    counts: ClassVar[Counter[str]] = Counter()
    most_actors: ClassVar[int] = 0

    def add(self, kind: str, work: Work, until: str) -> None:
        """Count who comes."""
        self.counts[f"{kind}s"] += 1
        super().add(kind, work, until)
        Counted.most_actors = max(self.most_actors, len(self.actors))

    @precondition(lambda self: not self.actors)
    @rule(
        writers=st.lists(_WRITERS, min_size=CROWD, max_size=CROWD),
        readers=st.lists(_READERS, min_size=CROWD, max_size=CROWD),
    )
    def a_crowd(
        self,
        writers: list[tuple[CacheKey, CacheKey, frozenset[int], int, str]],
        readers: list[tuple[CacheKey, str]],
    ) -> None:
        """Each stalls somewhere, for the other rules to go on with."""
        for key, fallback, added, skew, until in writers:
            self.a_writer(
                key=key, fallback=fallback, added=added, dropped=frozenset(),
                complete=True, skew=skew, until=until,
            )  # fmt: skip
        for key, until in readers:
            self.a_reader(key=key, until=until)

    @invariant()
    def step(self) -> None:
        """Comes after each step, and before the first."""
        self.counts["steps"] += 1

    def teardown(self) -> None:
        """Count the end."""
        self.counts["runs"] += 1
        self.counts["steps"] -= 1
        super().teardown()


def play(name: str, steps: int) -> Found:
    """Play at least so many steps, from a seed."""
    rules = settings(
        max_examples=_RUNS,
        stateful_step_count=_RUN,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    again = 0
    while Counted.counts["steps"] < steps:
        again += 1
        run_state_machine_as_test(seed(f"{name}/{again}")(Counted), settings=rules)
    return Found({**Counted.counts, "most_actors_at_once": Counted.most_actors})


def main(argv: Sequence[str]) -> int:
    """The program; a contradiction of the model is a miss, with the steps that lead to it."""
    name, first, count = argv
    try:
        found = play(f"{name}/{first}", int(count))
    except AssertionError as contradiction:
        notes = getattr(contradiction, "__notes__", [])
        found = Found(dict(Counted.counts), ["\n".join([str(contradiction), *notes])])
    print(json.dumps(asdict(found)))
    return 0


POINT = Point(
    number=4,
    name="collection",
    claim="Collections beside 8 writers and 8 readers, answers lost and late, pods that die, clocks"
    " of pods skewed by 24 h either way: nothing reachable is deleted, everything unreachable is"
    " gone in the end.",
    unit="random steps",
    full=10_000,
    quick=500,
    parts=_parts,
    minutes="2 minutes, quick 1",
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
