"""A store that keeps its promises passes the check, and each kind of liar is found out."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import ObjectExists, ObjectNotFound, StoreRefused, StoreUnavailable
from buildsvc.store import probes
from buildsvc.store.check import PROBES, Finding, Report, check_store
from buildsvc.store.contract import MAX_GET, ObjectStat
from buildsvc.store.faults import Fail, FaultyStore, FlipBit, Hold, LoseAnswer, Rule, Truncate
from buildsvc.store.http import HttpStore
from buildsvc.store.local import LocalStore
from buildsvc.store.open import open_store
from buildsvc.store.probes import Probe
from buildsvc.store.retry import RetryPolicy
from perf.objectserver import ObjectServer
from tests.unit.store.ossserving import oss_endpoint, oss_server, store_at
from tests.unit.store.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from buildsvc.store.contract import Store
    from tests.minio import Minio

LARGE = 3 << 20
AT_ONCE = RetryPolicy(attempts=3, first_wait=0, jitter=0)
ALL = [probe.name for probe in PROBES]
FEW = 23


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """List few objects: servers that answer by the page are asked for more than one."""
    monkeypatch.setattr(probes, "_MANY", FEW)


async def check(open_one: Callable[[], Store], directory: Path) -> Report:
    begun: list[str] = []
    ended: list[Finding] = []

    def progress(probe: Probe, finding: Finding | None) -> None:
        if finding is None:
            begun.append(probe.name)
        else:
            ended.append(finding)

    directory.mkdir(exist_ok=True)
    report = await check_store(open_one, directory, large=LARGE, progress=progress, policy=AT_ONCE)
    assert ended == report.findings
    assert begun == [finding.probe for finding in ended]
    return report


def broken(report: Report) -> list[str]:
    return [finding.probe for finding in report.findings if finding.state == "broken"]


async def nothing_is_left(store: Store) -> None:
    assert [stat.name async for stat in store.list("")] == []
    await store.close()


def assert_kept(report: Report) -> None:
    assert broken(report) == [], report
    assert [finding.probe for finding in report.findings] == ALL
    assert {finding.state for finding in report.findings} == {"kept"}
    assert report.kept
    assert report.left_behind == []


async def test_a_directory(tmp_path: Path) -> None:
    place = tmp_path / "store"
    assert_kept(await check(lambda: LocalStore(place), tmp_path))
    await nothing_is_left(LocalStore(place))


async def test_an_object_server(tmp_path: Path) -> None:
    server = ObjectServer(LocalStore(tmp_path / "served"))
    async with serving(server.application()) as address:
        assert_kept(await check(lambda: HttpStore(address), tmp_path))
        await nothing_is_left(HttpStore(address))


async def test_an_s3_server(minio: Minio, tmp_path: Path) -> None:
    address = minio.address(f"check/{uuid.uuid4()}")
    assert_kept(await check(lambda: open_store(address), tmp_path))
    await nothing_is_left(open_store(address))


async def test_alibabas_server(tmp_path: Path) -> None:
    async with oss_endpoint(oss_server()) as endpoint:
        assert_kept(await check(lambda: store_at(endpoint), tmp_path))
        await nothing_is_left(store_at(endpoint))


async def test_a_versioned_bucket_of_alibabas(tmp_path: Path) -> None:
    server = oss_server()
    server.bucket.versioning = "Enabled"
    async with oss_endpoint(server) as endpoint:
        report = await check(lambda: store_at(endpoint), tmp_path)
    assert isinstance(report.error, StoreRefused)
    assert "versioning" in report.findings[0].seen


class Overwriting(FaultyStore):
    """Knows no create-only."""

    async def create(self, name: str, data: bytes) -> None:
        await self._inner.put(name, data)


class Racing(FaultyStore):
    """Looks first, then writes."""

    async def create(self, name: str, data: bytes) -> None:
        try:
            await self._inner.stat(name)
        except ObjectNotFound:
            await self._inner.put(name, data)
        else:
            raise ObjectExists(name)


class Caching(FaultyStore):
    """Remembers what it once read."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner, [])
        self._read: dict[str, bytes] = {}

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        if name not in self._read:
            self._read[name] = await self._inner.get(name, limit=limit)
        return self._read[name]


class Unordered(FaultyStore):
    """Lists in an order of its own."""

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        for stat in reversed([stat async for stat in self._inner.list(prefix)]):
            yield stat


class OnePage(FaultyStore):
    """Lists the beginning."""

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        count = 0
        async for stat in self._inner.list(prefix):
            yield stat
            count += 1
            if count == FEW // 3:
                return


class Directories(FaultyStore):
    """Takes the directory of a prefix for the prefix."""

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        async for stat in self._inner.list(prefix.rpartition("/")[0]):
            yield stat


class Keeping(FaultyStore):
    """Deletes nothing."""

    async def delete(self, name: str) -> None:
        await self._inner.stat(name)


class Late(FaultyStore):
    """Its clock is wrong."""

    async def stat(self, name: str) -> ObjectStat:
        stat = await self._inner.stat(name)
        assert stat.modified is not None
        return ObjectStat(name, stat.size, stat.modified - 3600)


def scripted(*rules: Rule) -> Callable[[Store], Store]:
    return lambda inner: FaultyStore(inner, rules)


def of(kind: Callable[[Store, list[Rule]], Store]) -> Callable[[Store], Store]:
    return lambda inner: kind(inner, [])


FORBIDDEN = Fail(StoreRefused("HTTP 403"))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("liar", "expected"),
    [
        (of(Overwriting), ["create-only", "one winner"]),
        (of(Racing), ["one winner"]),
        (Caching, ["read after write", "deletion"]),
        (of(Unordered), ["lists"]),
        (of(OnePage), ["lists"]),
        (of(Directories), ["lists"]),
        (of(Late), ["clock"]),
        (scripted(Rule("*", "*absent", 0, FORBIDDEN)), ["absent objects"]),
        (scripted(Rule("get", "*written", 3, FlipBit(5))), ["read after write"]),
        (scripted(Rule("get_range", "*", 2, FlipBit(5))), ["ranges"]),
        (scripted(Rule("get_range_to", "*", 1, FlipBit(5))), ["large objects"]),
        (scripted(Rule("put_file", "*", 1, Truncate(LARGE - 1))), ["large objects"]),
        (scripted(Rule("put_file", "*", 0, FORBIDDEN)), ["large objects"]),
        (scripted(Rule("list", "*", 0, FORBIDDEN)), ["lists"]),
        (scripted(Rule("create", "*race-*", 0, FORBIDDEN)), ["one winner"]),
        (scripted(Rule("put", "*list-*", 0, FORBIDDEN)), ["lists"]),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else None,
)
async def test_liars(tmp_path: Path, liar: Callable[[Store], Store], expected: list[str]) -> None:
    place = tmp_path / "store"
    report = await check(lambda: liar(LocalStore(place)), tmp_path)
    assert broken(report) == expected, report
    assert not report.kept
    assert report.error is None
    for finding in report.findings:
        assert finding.seen
        assert bool(finding.breaks) is bool(finding.advice) is (finding.state == "broken")
    await nothing_is_left(LocalStore(place))


@pytest.mark.usefixtures("few")
async def test_a_store_that_does_not_delete(tmp_path: Path) -> None:
    report = await check(lambda: Keeping(LocalStore(tmp_path / "store"), []), tmp_path)
    assert broken(report) == ["deletion"]


async def test_an_identity_that_may_not_delete(tmp_path: Path) -> None:
    place = tmp_path / "store"
    rule = Rule("delete", "*", 0, FORBIDDEN)
    report = await check(lambda: FaultyStore(LocalStore(place), [rule]), tmp_path)
    assert report.kept
    assert [f.probe for f in report.findings if f.state == "untested"] == ["deletion"]
    store = LocalStore(place)
    assert [stat.name async for stat in store.list("")] == report.left_behind
    assert len(report.left_behind) > 1200
    await store.close()


async def test_what_fails_in_passing_is_tried_again(tmp_path: Path) -> None:
    rules = [
        Rule("*", "*", call, fault)
        for call, fault in ((2, Fail()), (5, LoseAnswer()), (700, Fail()), (900, LoseAnswer()))
    ]
    place = tmp_path / "store"
    report = await check(lambda: FaultyStore(LocalStore(place), rules), tmp_path)
    assert_kept(report)
    assert report.retries > 3
    await nothing_is_left(LocalStore(place))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ["*race-3", "*created", "*deleted"])
async def test_a_create_that_was_not_answered_is_no_lie(tmp_path: Path, name: str) -> None:
    rule = Rule("create", name, 1, LoseAnswer())
    place = tmp_path / "store"
    report = await check(lambda: FaultyStore(LocalStore(place), [rule]), tmp_path)
    assert_kept(report)


@pytest.mark.usefixtures("few")
async def test_a_create_that_was_sent_twice_without_a_word_is_no_lie(tmp_path: Path) -> None:
    """As an HTTP exchange does whose kept connection has died."""

    class Twice(FaultyStore):
        async def create(self, name: str, data: bytes) -> None:
            await self._inner.create(name, data)
            await self._inner.create(name, data)

    place = tmp_path / "store"
    report = await check(lambda: Twice(LocalStore(place), []), tmp_path)
    assert_kept(report)
    assert report.retries == 0


@pytest.mark.parametrize("error", [StoreUnavailable("nobody there"), StoreRefused("no right")])
async def test_an_identity_that_may_not_read_leaves_nothing(
    tmp_path: Path, error: Exception
) -> None:
    place = tmp_path / "store"
    rule = Rule("get", "*", 0, Fail(error))
    report = await check(lambda: FaultyStore(LocalStore(place), [rule]), tmp_path)
    assert report.error is error
    assert report.left_behind == []
    await nothing_is_left(LocalStore(place))


@pytest.mark.parametrize(
    ("error", "left"), [(StoreUnavailable("nobody there"), 1), (StoreRefused("no right"), 0)]
)
async def test_a_store_that_cannot_be_used(tmp_path: Path, error: Exception, left: int) -> None:
    rule = Rule("*", "*", 0, Fail(error))
    report = await check(lambda: FaultyStore(LocalStore(tmp_path / "store"), [rule]), tmp_path)
    assert report.error is error
    assert not report.kept
    (finding,) = report.findings
    assert finding.probe == ALL[0]
    assert finding.breaks == "nothing can be kept in it"
    # Whether a put that was not answered took effect is not known.
    assert len(report.left_behind) == left


@pytest.mark.usefixtures("few")
async def test_the_stores_own_advice_comes_first(tmp_path: Path) -> None:
    error = StoreRefused("no right to put", found="HTTP 403", advice="give it the right")
    rule = Rule("put_file", "*", 0, Fail(error))
    report = await check(lambda: FaultyStore(LocalStore(tmp_path / "store"), [rule]), tmp_path)
    (finding,) = [one for one in report.findings if one.state == "broken"]
    assert finding.seen == "no right to put; found: HTTP 403"
    assert finding.advice == "give it the right"


async def test_an_interrupted_check_cleans_up(tmp_path: Path) -> None:
    hold = Hold(asyncio.Event())
    rule = Rule("put", "*list-00000000000000000900", 1, hold)
    place = tmp_path / "store"
    task = asyncio.create_task(check(lambda: FaultyStore(LocalStore(place), [rule]), tmp_path))
    await hold.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await nothing_is_left(LocalStore(place))
