"""Random sequences of operations: a store behaves as a dictionary does."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from buildsvc.errors import ObjectExists, ObjectNotFound, ShortObject
from buildsvc.store.faults import FaultyStore, LoseAnswer, Rule
from buildsvc.store.local import LocalStore
from buildsvc.store.retry import RetryingStore

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

# Each directory name is a prefix of others, but none is an object.
NAMES = st.sampled_from(["a-b", "a.b/x", "a/a", "a/b", "a/b0", "a0", "b/a/c", "b/a0", "c"])
PREFIXES = st.sampled_from(["", "a", "a/", "a/b", "a.", "b/a", "b/a/", "c", "d"])
DATA = st.binary(max_size=40)
OFFSETS = st.integers(0, 45)


async def _immediately(_: float) -> None:
    return None


class StoreModel(RuleBasedStateMachine):
    """A local store under a wrapper that loses every third answer of a write, and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        lost = [Rule("put", "*", call, LoseAnswer()) for call in range(1, 300, 3)] + [
            Rule("delete", "*", call, LoseAnswer()) for call in range(1, 300, 3)
        ]
        self.store = RetryingStore(
            FaultyStore(LocalStore(self.directory / "store", threads=2), lost), sleep=_immediately
        )
        self.model: dict[str, bytes] = {}

    def run(self, operation: Coroutine[object, object, T]) -> T:
        return self.runner.run(operation)

    @rule(name=NAMES, data=DATA)
    def put(self, name: str, data: bytes) -> None:
        self.run(self.store.put(name, data))
        self.model[name] = data

    @rule(name=NAMES, data=DATA)
    def create(self, name: str, data: bytes) -> None:
        if name in self.model:
            with pytest.raises(ObjectExists):
                self.run(self.store.create(name, data))
        else:
            self.run(self.store.create(name, data))
            self.model[name] = data

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.run(self.store.delete(name))
        self.model.pop(name, None)

    @rule(name=NAMES)
    def get(self, name: str) -> None:
        if name in self.model:
            assert self.run(self.store.get(name)) == self.model[name]
        else:
            with pytest.raises(ObjectNotFound):
                self.run(self.store.get(name))

    @rule(name=NAMES, start=OFFSETS, length=OFFSETS)
    def get_range(self, name: str, start: int, length: int) -> None:
        if name not in self.model:
            with pytest.raises(ObjectNotFound):
                self.run(self.store.get_range(name, start, length))
        elif start + length > len(self.model[name]):
            with pytest.raises(ShortObject):
                self.run(self.store.get_range(name, start, length))
        else:
            data = self.run(self.store.get_range(name, start, length))
            assert data == self.model[name][start : start + length]

    @rule(prefix=PREFIXES)
    def list(self, prefix: str) -> None:
        async def listing() -> dict[str, int]:
            return {stat.name: stat.size async for stat in self.store.list(prefix)}

        expected = {n: len(self.model[n]) for n in sorted(self.model) if n.startswith(prefix)}
        assert [*self.run(listing()).items()] == [*expected.items()]

    @invariant()
    def no_draft_is_left(self) -> None:
        assert [*self.directory.glob("store/.drafts/*")] == []

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.directory)


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
