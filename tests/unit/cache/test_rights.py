"""What each role may do in a bucket: enough for its work, as MinIO enforces it, and no more."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, get_args

import pytest

from buildsvc import cli
from buildsvc.cache.catalog import Catalog
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.leases import Lease
from buildsvc.cache.packs import pack_name
from buildsvc.cache.publication import publish
from buildsvc.cache.rights import ROLES, Role, Scope, rights_of
from buildsvc.errors import ObjectNotFound, StoreRefused, UsageError
from buildsvc.store.address import parse_address
from buildsvc.store.open import open_store
from buildsvc.store.policy import policy
from tests.unit.cache.fakes import make_root

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from buildsvc.store.contract import Store
    from tests.minio import Minio

KEY = CacheKey("acme", "protected", "app/main", "linux-amd64", "buildkit-0.33")
OTHER = CacheKey("acme", "forks", "app/pull:7", "linux-amd64", "buildkit-0.33")
EVERY = Scope()
AT_ONCE = ("--min-age", "0s", "--settle", "0s")


class Bucket:
    """A store in MinIO, and sessions with the rights of a role in it."""

    def __init__(self, server: Minio, patch: pytest.MonkeyPatch) -> None:
        self._server = server
        self._patch = patch
        self.url = server.address(f"rights/{uuid.uuid4()}")

    @contextmanager
    def as_role(self, role: Role, scope: Scope = EVERY) -> Iterator[None]:
        """Have these rights, and no others, in the environment."""
        document = policy(parse_address(self.url), rights_of(role, scope))
        with self._patch.context() as patched:
            for name, value in self._server.session(document).items():
                patched.setenv(name, value)
            yield

    def do(self, work: Callable[[Store], Awaitable[object]]) -> None:
        """Do something with the store."""

        async def done() -> None:
            store = open_store(self.url)
            try:
                await work(store)
            finally:
                await store.close()

        asyncio.run(done())


@pytest.fixture
def bucket(minio: Minio, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return Bucket(minio, monkeypatch)


async def published(store: Store, directory: Path, key: CacheKey = KEY) -> Generation:
    """Publish as a pod does, with one pack."""
    directory.mkdir()
    root = await asyncio.to_thread(make_root, directory, marker=directory.name.encode())
    for pack in root.packs:
        await store.put_file(pack_name(pack.digest), directory / f"{pack.digest.hex()}.pack")
    return await publish(GenerationLog(store, key), Catalog(), lambda _: root)


def refused() -> AbstractContextManager[object]:
    return pytest.raises(StoreRefused, match=r"AccessDenied|HTTP 403")


def test_who_reads(bucket: Bucket, tmp_path: Path) -> None:
    bucket.do(lambda store: published(store, tmp_path / "1"))

    async def work(store: Store) -> None:
        log = GenerationLog(store, KEY)
        newest = await log.newest()
        assert newest is not None
        root = await log.read_root(newest)
        (pack,) = root.packs
        assert await store.get_range(pack_name(pack.digest), 0, 4)
        await Lease(store, newest.head.root).renew()
        with pytest.raises(ObjectNotFound):
            await log.read(2)
        with refused():
            await log.publish(root, parent=newest)
        for name in ("packs/a", "roots/a", KEY.head_name(2), "collections/log/1", "check/a"):
            with refused():
                await store.put(name, b"data")
        for name in (pack_name(pack.digest), KEY.head_name(1)):
            with refused():
                await store.delete(name)
        for prefix in ("", "roots/", "packs/", "leases/"):
            with refused():
                assert [stat async for stat in store.list(prefix)]

    with bucket.as_role("read"):
        bucket.do(work)


def test_who_publishes(bucket: Bucket, tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        for number in (1, 2):
            assert (await published(store, tmp_path / str(number))).number == number
        large = tmp_path / "large"
        await asyncio.to_thread(large.write_bytes, bytes(40 << 20))
        await store.put_file("packs/large", large)
        for name in ("collections/log/1", "collections/clock", "check/a", "other/a"):
            with refused():
                await store.put(name, b"data")
        for name in ("packs/large", KEY.head_name(1)):
            with refused():
                await store.delete(name)
        with refused():
            assert [stat async for stat in store.list("packs/")]

    with bucket.as_role("publish"):
        bucket.do(work)


@pytest.mark.parametrize(
    ("scope", "allowed", "forbidden"),
    [(Scope(only=[KEY]), KEY, OTHER), (Scope(never=[KEY]), OTHER, KEY)],
)
def test_who_publishes_under_some_keys(
    bucket: Bucket, tmp_path: Path, scope: Scope, allowed: CacheKey, forbidden: CacheKey
) -> None:
    bucket.do(lambda store: published(store, tmp_path / "1", forbidden))

    async def work(store: Store) -> None:
        await published(store, tmp_path / "2", allowed)
        assert await GenerationLog(store, forbidden).newest()
        with refused():
            await published(store, tmp_path / "3", forbidden)

    with bucket.as_role("publish", scope):
        bucket.do(work)


def collected(argv: list[str], capsys: pytest.CaptureFixture[str]) -> bool:
    """Collect; whether a root was deleted."""
    assert cli.main(argv) == 0
    deleted = json.loads(capsys.readouterr().out)["deleted"]
    return bool(deleted and deleted["roots"])


def test_who_collects(bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in ("1", "2", "3"):
        bucket.do(partial(published, directory=tmp_path / number))
    with bucket.as_role("collect"):
        for keep in ("2", "1"):
            argv = ["cache", "gc", bucket.url, "--keep-last", keep, *AT_ONCE, "--json"]
            end = time.monotonic() + 20
            # Nothing is old before the server's clock has gone on by a second.
            while not collected(argv, capsys):
                assert time.monotonic() < end
                time.sleep(0.2)
        assert cli.main(["cache", "ls", bucket.url]) == 0
        assert cli.main(["cache", "du", bucket.url]) == 0
        # The databases of these generations are none, which only who reads packs sees.
        assert cli.main(["cache", "verify", bucket.url, KEY.text, "--deep"]) == 65
        assert cli.main(["cache", "rm", bucket.url, KEY.text, "--yes"]) == 0

        async def work(store: Store) -> None:
            for name in ("packs/a", "roots/a", f"keys/{KEY.id}/key"):
                with refused():
                    await store.put(name, b"data")
            with refused():
                await store.delete(KEY.object_name)

        bucket.do(work)


def test_who_checks(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    with bucket.as_role("check"):
        assert cli.main(["store", "check", bucket.url, "--large", "40"]) == 0
        assert "BROKEN" not in capsys.readouterr().out

        async def work(store: Store) -> None:
            with refused():
                await store.put("packs/a", b"data")

        bucket.do(work)


def test_who_reads_in_s3_is_told_what_is_absent(capsys: pytest.CaptureFixture[str]) -> None:
    """Amazon's S3 compares no prefix then; MinIO asks for no such right."""
    assert cli.main(["store", "policy", "s3://builds/ci", "--role", "read"]) == 0
    statements = json.loads(capsys.readouterr().out)["Statement"]
    listing = [one["Condition"] for one in statements if one["Action"] == ["s3:ListBucket"]]
    assert listing == [
        {"StringLike": {"s3:prefix": ["ci/keys/*"]}},
        {"Null": {"s3:prefix": "true"}},
    ]
    assert {name for one in statements for name in one["Resource"]} == {
        "arn:aws:s3:::builds",
        "arn:aws:s3:::builds/ci/keys/*/heads/*",
        "arn:aws:s3:::builds/ci/roots/*",
        "arn:aws:s3:::builds/ci/packs/*",
        "arn:aws:s3:::builds/ci/leases/*",
    }


def test_the_document_of_oss(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["store", "policy", "oss://builds/ci?region=cn-hangzhou", "--role", "read"]
    assert cli.main(argv) == 0
    allow = {"Effect": "Allow"}
    assert json.loads(capsys.readouterr().out) == {
        "Version": "1",
        "Statement": [
            {
                **allow,
                "Action": ["oss:GetObject"],
                "Resource": [
                    "acs:oss:*:*:builds/ci/keys/*/heads/*",
                    "acs:oss:*:*:builds/ci/roots/*",
                    "acs:oss:*:*:builds/ci/packs/*",
                ],
            },
            {
                **allow,
                "Action": ["oss:PutObject"],
                "Resource": ["acs:oss:*:*:builds/ci/leases/*"],
            },
            {
                **allow,
                "Action": ["oss:GetBucketVersioning"],
                "Resource": ["acs:oss:*:*:builds"],
            },
            {
                **allow,
                "Action": ["oss:ListObjects"],
                "Resource": ["acs:oss:*:*:builds"],
                "Condition": {"StringLike": {"oss:Prefix": ["ci/keys/*"]}},
            },
        ],
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("url", ["s3://builds", "oss://builds?region=cn-hangzhou"])
def test_documents_of_whole_buckets(
    capsys: pytest.CaptureFixture[str], role: Role, url: str
) -> None:
    assert cli.main(["store", "policy", url, "--role", role]) == 0
    document = capsys.readouterr().out
    # Only those of the bucket begin without a prefix; no key of S3 or OSS begins with a slash.
    assert "builds//" not in document
    statements = json.loads(document)["Statement"]
    deletes = any("DeleteObject" in action for one in statements for action in one["Action"])
    assert deletes is (role in {"collect", "check"})


def test_all_roles_are_known() -> None:
    assert tuple(ROLES) == get_args(Role) == cli._ROLES


def test_keys_are_for_those_who_publish() -> None:
    with pytest.raises(UsageError, match="--role publish"):
        rights_of("read", Scope(only=[KEY]))


def test_what_has_no_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "policy", str(tmp_path), "--role", "read"]) == 64
    assert "only buckets have policies" in capsys.readouterr().err
    argv = ["store", "policy", "s3://builds", "--role", "publish", "--key", "main"]
    assert cli.main(argv) == 78
