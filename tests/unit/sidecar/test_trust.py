"""Which keys a sidecar has, and what it refuses to start with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from buildsvc.cache.keys import CacheKey
from buildsvc.errors import ConfigError
from sidecar.settings import Settings
from sidecar.trust import Trust, read_trust
from tests.unit.cache.fakes import MemoryStore, make_root

KEY = CacheKey("acme", "protected", "app", "linux-amd64", "buildkit-0.33")


class Pair:
    """A key pair in files."""

    def __init__(self, directory: Path, name: str) -> None:
        private = Ed25519PrivateKey.generate()
        self.signing = directory / f"{name}.key"
        self.signing.write_bytes(
            private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        self.verify = directory / f"{name}.pem"
        self.verify.write_bytes(
            private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )


@pytest.fixture
def old(tmp_path: Path) -> Pair:
    return Pair(tmp_path, "old")


@pytest.fixture
def new(tmp_path: Path) -> Pair:
    return Pair(tmp_path, "new")


def settings(**values: object) -> Settings:
    domain = {"tenant": "acme", "trust_domain": "protected"}
    return Settings.read({"root": Path("/r"), "store": "/s", **domain, **values})


async def trust(**values: object) -> Trust:
    return await asyncio.to_thread(lambda: read_trust(settings(**values)))


def test_without_keys_nothing_is_signed_or_checked() -> None:
    assert read_trust(settings()) == Trust()


async def test_a_publisher_and_its_readers(old: Pair, tmp_path: Path) -> None:
    store = MemoryStore()
    scope = f"acme/protected={old.verify}"
    publisher = await trust(signing_key=old.signing, verify_key=[scope])
    generation = await publisher.log(store, KEY).publish(
        await asyncio.to_thread(make_root, tmp_path), parent=None
    )
    reader = await trust(publish="never", verify_key=[scope])
    assert reader.signing is None
    assert await reader.log(store, KEY).newest() == generation


async def test_a_key_is_replaced_without_downtime(old: Pair, new: Pair, tmp_path: Path) -> None:
    """The order of docs/operations.md: readers first, then publishers, then the old key goes."""
    store = MemoryStore()
    root = await asyncio.to_thread(make_root, tmp_path)
    one, both = [f"acme/protected={old.verify}"], [f"acme/protected={tmp_path}"]
    before = (await trust(signing_key=old.signing, verify_key=one)).log(store, KEY)
    during = (await trust(signing_key=old.signing, verify_key=both)).log(store, KEY)
    after = (await trust(signing_key=new.signing, verify_key=both)).log(store, KEY)
    first = await before.publish(root, parent=None)
    second = await during.publish(root, parent=await during.newest())
    assert await before.newest() == second, "who has not got the new key yet"
    third = await after.publish(root, parent=await after.newest())
    assert await during.newest() == third
    found = [one async for one in after.candidates(lambda number, _: pytest.fail(str(number)))]
    assert found == [third, second, first]


async def test_publishers_may_sign_before_readers_ask_for_it(old: Pair, tmp_path: Path) -> None:
    store = MemoryStore()
    log = (await trust(signing_key=old.signing)).log(store, KEY)
    generation = await log.publish(await asyncio.to_thread(make_root, tmp_path), parent=None)
    assert generation.head.signature
    assert await (await trust()).log(store, KEY).newest() == generation


def test_a_publisher_that_does_not_sign_although_it_checks(old: Pair) -> None:
    with pytest.raises(ConfigError, match="found: no --signing-key"):
        read_trust(settings(verify_key=[f"acme/protected={old.verify}"]))


def test_a_publisher_whose_key_no_reader_trusts(old: Pair, new: Pair) -> None:
    with pytest.raises(ConfigError, match=r"no reader .* would take") as caught:
        read_trust(settings(signing_key=new.signing, verify_key=[f"acme/protected={old.verify}"]))
    trust = read_trust(settings(publish="never", verify_key=[f"acme/protected={old.verify}"]))
    assert trust.verify is not None
    assert trust.verify.ids("acme", "protected")[0] in str(caught.value)


def test_a_forks_key_for_a_protected_domain(old: Pair, new: Pair) -> None:
    scopes = [f"acme/protected={old.verify}", f"acme/forks={new.verify}"]
    with pytest.raises(ConfigError, match="no reader"):
        read_trust(settings(signing_key=new.signing, verify_key=scopes))
    read_trust(settings(signing_key=new.signing, verify_key=scopes, trust_domain="forks"))


def test_each_domain_that_is_read_needs_a_key(old: Pair, new: Pair) -> None:
    forks = {"trust_domain": "forks", "read_domain": ["protected"], "signing_key": new.signing}
    own = f"acme/forks={new.verify}"
    with pytest.raises(ConfigError, match=r"--verify-key acme/protected=.*--read-domain"):
        read_trust(settings(**forks, verify_key=[own]))
    read_trust(settings(**forks, verify_key=[own], fork_reads="none"))
    scopes = [own, f"acme/protected={old.verify}"]
    assert read_trust(settings(**forks, verify_key=scopes)).verify is not None
    with pytest.raises(ConfigError, match="no reader"):
        read_trust(settings(**{**forks, "signing_key": old.signing}, verify_key=scopes))


def test_keys_for_other_domains_only(old: Pair) -> None:
    with pytest.raises(ConfigError, match=r"keys for acme/forks; .*--verify-key acme/protected="):
        read_trust(settings(publish="never", verify_key=[f"acme/forks={old.verify}"]))


def test_a_directory_without_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\*\.pem"):
        read_trust(settings(verify_key=[f"acme/protected={tmp_path}"]))


def test_a_directory_with_something_else_in_it(old: Pair, tmp_path: Path) -> None:
    (tmp_path / "signing.pem").write_bytes(old.signing.read_bytes())
    with pytest.raises(ConfigError, match="is a private key"):
        read_trust(settings(publish="never", verify_key=[f"acme/protected={tmp_path}"]))


def test_a_reader_does_not_read_the_signing_key() -> None:
    assert read_trust(settings(publish="never", signing_key="/missing")) == Trust()
