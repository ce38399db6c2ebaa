"""``buildsvc cache``: what it deletes, prints and refuses."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from buildsvc import cli
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.packs import pack_name
from buildsvc.cache.signing import SigningKey
from buildsvc.store.local import LocalStore
from tests.unit.cache.fakes import make_root

KEY = CacheKey("acme", "protected", "app/main", "linux-amd64", "buildkit-0.33")
NOW = ("--min-age", "0s", "--settle", "0s")


class Cache:
    """A store with generations of one key, each with a pack of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = str(directory / "store")
        self._made = 0

    def publish(self, count: int, signing: SigningKey | None = None) -> cache_pb2.Root:
        """Publish that many, and return the newest one."""
        root = cache_pb2.Root()
        for _ in range(count):
            place = self.directory / f"made-{self._made}"
            place.mkdir()
            root = make_root(place, marker=b"%d" % self._made)
            self._made += 1
            asyncio.run(self._publish(KEY, root, signing, place))
        return root

    def share(self, key: CacheKey, root: cache_pb2.Root, signing: SigningKey) -> None:
        """Publish under another key what is in the store already."""
        asyncio.run(self._publish(key, root, signing))

    async def _publish(
        self,
        key: CacheKey,
        root: cache_pb2.Root,
        signing: SigningKey | None,
        place: Path | None = None,
    ) -> None:
        store = LocalStore(Path(self.url))
        if place is not None:
            for pack in root.packs:
                name = pack_name(pack.digest)
                await store.put_file(name, place / f"{pack.digest.hex()}.pack")
        log = GenerationLog(store, key, signing=signing)
        await log.publish(root, parent=await log.newest())
        await store.close()

    def count(self, what: str) -> int:
        return sum(path.is_file() for path in Path(self.url, what).rglob("*"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_garbage_is_planned_and_deleted(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    cache.publish(4)
    argv = ["cache", "gc", cache.url, *NOW, "--keep-last", "1"]
    assert cli.main([*argv, "--dry-run"]) == 0
    planned = capsys.readouterr().out.splitlines()
    assert planned[0] == f"{KEY.text}: 1 generations stay, 3 go"
    assert planned[1].startswith("3 packs and 3 roots of ")
    assert (cache.count("packs"), cache.count("roots")) == (4, 4)
    assert cli.main(argv) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 packs and 3 roots deleted"
    assert (cache.count("packs"), cache.count("roots")) == (1, 1)


def test_garbage_as_json(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    cache.publish(3)
    assert cli.main(["cache", "gc", cache.url, *NOW, "--keep-last", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["keys"] == [{"key": KEY.text, "kept": 2, "dropped": 1, "oldest_kept": 2}]
    assert document["deleted"] == {"packs": 1, "roots": 1}
    assert document["planned"]["bytes"] > 0
    assert cli.main(["cache", "gc", cache.url, *NOW, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["dry_run"], document["planned"]["packs"]) == (True, 0)
    assert document["deleted"] is None


def test_nothing_young_is_deleted_unless_it_is_said(cache: Cache) -> None:
    cache.publish(5)
    assert cli.main(["cache", "gc", cache.url, "--settle", "0s", "--keep-last", "1"]) == 0
    assert cache.count("packs") == 5


@pytest.mark.parametrize(
    ("limit", "left"),
    [(("--max-size", "1B"), 0), (("--max-age", "10d"), 3), (("--max-size", "1GiB"), 3)],
)
def test_limits(cache: Cache, limit: tuple[str, str], left: int) -> None:
    cache.publish(3)
    assert cli.main(["cache", "gc", cache.url, *NOW, *limit]) == 0
    assert cache.count("packs") == left


def test_what_there_is(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    cache.publish(2)
    assert cli.main(["cache", "ls", cache.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == KEY.text
    assert lines[1].split()[0] == "1"
    assert lines[-1].startswith("1 keys, ")
    assert cli.main(["cache", "ls", cache.url, "--json"]) == 0
    (key,) = json.loads(capsys.readouterr().out)["keys"]
    assert [one["number"] for one in key["generations"]] == [1, 2]
    assert key["bytes"] == sum(one["bytes"] for one in key["generations"])


def key_files(directory: Path, name: str) -> tuple[Path, Path]:
    private = Ed25519PrivateKey.generate()
    signing, verify = directory / f"{name}.key", directory / f"{name}.pem"
    signing.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    verify.write_bytes(
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return signing, verify


def test_signed_generations(cache: Cache, tmp_path: Path) -> None:
    pods, _ = key_files(tmp_path, "pods")
    own, _ = key_files(tmp_path, "collector")
    cache.publish(3, SigningKey.read(pods))
    argv = ["cache", "gc", cache.url, *NOW, "--keep-last", "1"]
    verify = ["--verify-key", f"acme/protected={tmp_path}"]
    assert cli.main([*argv, *verify]) == 64, "readers would pass over what is not signed"
    only_pods = ["--verify-key", f"acme/protected={tmp_path / 'pods.pem'}"]
    assert cli.main([*argv, *only_pods, "--signing-key", str(own)]) == 78
    other = ["--verify-key", f"acme/protected={tmp_path / 'collector.pem'}"]
    assert cli.main([*argv, *other, "--signing-key", str(own)]) == 65, "nothing can be read"
    assert cache.count("packs") == 3
    assert cli.main([*argv, *verify, "--signing-key", str(own)]) == 0
    assert cache.count("packs") == 1


def test_a_living_generation_of_a_fork_keeps_what_it_has_of_the_protected_domain(
    cache: Cache, tmp_path: Path
) -> None:
    pods, _ = key_files(tmp_path, "pods")
    fork, _ = key_files(tmp_path, "fork")
    own, _ = key_files(tmp_path, "collector")
    shared = cache.publish(1, SigningKey.read(pods))
    cache.share(replace(KEY, trust_domain="forks"), shared, SigningKey.read(fork))
    cache.publish(2, SigningKey.read(pods))

    def verify(domain: str, *names: str) -> list[str]:
        return [f"--verify-key=acme/{domain}={tmp_path / name}.pem" for name in names]

    argv = ["cache", "gc", cache.url, *NOW, "--keep-last", "1", "--signing-key", str(own)]
    argv += verify("protected", "pods", "collector")
    assert cli.main(argv) == 78, "it cannot know what the fork needs"
    assert cache.count("packs") == 3
    assert cli.main([*argv, *verify("forks", "fork", "collector")]) == 0
    assert cache.count("packs") == 2
    assert all((Path(cache.url) / pack_name(pack.digest)).exists() for pack in shared.packs)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["cache"], 64),
        (["cache", "gc"], 64),
        (["cache", "gc", "/s", "--keep-last", "0"], 64),
        (["cache", "gc", "/s", "--max-age", "30"], 64),
        (["cache", "gc", "/s", "--max-size", "much"], 64),
        (["cache", "gc", "/s", "--max-size", "7"], 64),
        (["cache", "gc", "/s", "--dry-run", "--verify-key", "acme=/k"], 64),
        (["cache", "ls", "/s", "--verify-key", "acme/d/e=/k"], 64),
        # A directory without keys.
        (["cache", "ls", "/s", "--verify-key", "acme/d=/proc/self/fdinfo"], 78),
        (["cache", "gc", "ftp://host"], 78),
        (["cache", "ls", "/s", "--verify-key", "acme/d=/missing.pem"], 78),
    ],
)
def test_what_is_wrong(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == code
    assert capsys.readouterr().err.startswith("buildsvc: error: ")
