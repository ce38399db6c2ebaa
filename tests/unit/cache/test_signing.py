"""Signatures of heads: whose is accepted for what, and that no byte can change under one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.signing import CONTEXT, SigningKey, VerifyKey, VerifyKeys
from buildsvc.errors import ConfigError, UntrustedHead

KEY = CacheKey("acme", "protected", "app/main", "linux-amd64", "buildkit-0.33")

# RFC 8410, section 10: an Ed25519 key pair.
RFC_PRIVATE = (
    "-----BEGIN PRIVATE KEY-----\n"
    "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
    "-----END PRIVATE KEY-----\n"
)
RFC_PUBLIC = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
    "-----END PUBLIC KEY-----\n"
)


def new_key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


MINE, THEIRS = new_key(), new_key()


def trusting(*keys: SigningKey, tenant: str = "acme", domain: str = "protected") -> VerifyKeys:
    return VerifyKeys({(tenant, domain): [key.verify_key for key in keys]})


def make_head() -> cache_pb2.Head:
    return cache_pb2.Head(
        format_version=1, key=KEY.text, number=7, root=b"r" * 32, nonce=b"n" * 16, tenant="acme"
    )


def check(keys: VerifyKeys, raw: bytes) -> None:
    keys.check(cache_pb2.Head.FromString(raw), raw, KEY, 7)


def test_what_was_signed_is_an_ordinary_message() -> None:
    head = make_head()
    raw = MINE.sign(head)
    check(trusting(MINE), raw)
    read = cache_pb2.Head.FromString(raw)
    assert read.signing_key_id == MINE.id
    assert len(read.signature) == 64
    read.ClearField("signature")
    read.ClearField("signing_key_id")
    assert read == head
    assert head == make_head(), "the caller's message is left alone"


def test_the_signature_is_ed25519_over_a_context_and_the_body() -> None:
    raw = MINE.sign(make_head())
    public = Ed25519PublicKey.from_public_bytes(MINE._private.public_key().public_bytes_raw())
    body = raw[:-66]
    public.verify(raw[-64:], CONTEXT + body)
    assert cache_pb2.Head.FromString(body).signature == b""


def test_a_signature_of_the_body_alone_is_none() -> None:
    """Else something signed for another purpose could be passed off as a head."""
    body = MINE.sign(make_head())[:-66]
    forged = body + b"\x7a\x40" + MINE._private.sign(body)
    with pytest.raises(UntrustedHead, match="were not signed by"):
        check(trusting(MINE), forged)


def test_signing_again_replaces_the_signature() -> None:
    again = THEIRS.sign(cache_pb2.Head.FromString(MINE.sign(make_head())))
    assert again == THEIRS.sign(make_head())


def test_fields_of_a_later_version_are_signed_too() -> None:
    later = make_head().SerializeToString() + b"\xa2\x06\x05later"  # field 100
    head = cache_pb2.Head.FromString(later)
    raw = MINE.sign(head)
    assert b"later" in raw
    check(trusting(MINE), raw)
    with pytest.raises(UntrustedHead):
        check(trusting(MINE), raw.replace(b"later", b"LATER"))


def test_the_signature_has_its_place() -> None:
    raw = MINE.sign(make_head())
    with pytest.raises(UntrustedHead, match="were not signed by"):
        check(trusting(MINE), raw[-66:] + raw[:-66])


@pytest.mark.parametrize("size", [1, 63, 65])
def test_a_signature_of_another_size(size: int) -> None:
    claimed = make_head()
    claimed.signing_key_id = MINE.id
    claimed.signature = b"s" * size
    with pytest.raises(UntrustedHead, match="were not signed by"):
        check(trusting(MINE), claimed.SerializeToString())


@pytest.mark.parametrize("extra", [b"\xa2\x06\x05later", b"\x18\x08", b"\x7a\x40" + b"s" * 64])
def test_nothing_can_be_added_behind_a_signature(extra: bytes) -> None:
    raw = MINE.sign(make_head())
    with pytest.raises(UntrustedHead):
        check(trusting(MINE), raw + extra)


@given(at=st.integers(0, len(MINE.sign(make_head())) * 8 - 1))
def test_no_bit_can_be_changed(at: int) -> None:
    raw = bytearray(MINE.sign(make_head()))
    raw[at // 8] ^= 1 << at % 8
    try:
        head = cache_pb2.Head.FromString(bytes(raw))
    except DecodeError:
        return
    with pytest.raises(UntrustedHead):
        trusting(MINE).check(head, bytes(raw), KEY, 7)


@given(cut=st.integers(1, 200), extra=st.binary(min_size=1, max_size=80))
def test_no_bytes_can_be_cut_or_put_between(cut: int, extra: bytes) -> None:
    raw = MINE.sign(make_head())
    at = cut % len(raw)
    for changed in (raw[:at], raw[:at] + extra + raw[at:]):
        try:
            head = cache_pb2.Head.FromString(changed)
        except DecodeError:
            continue
        with pytest.raises(UntrustedHead):
            trusting(MINE).check(head, changed, KEY, 7)


def test_an_unsigned_head() -> None:
    with pytest.raises(UntrustedHead, match=rf"head 7: it is not signed; expected: .*{MINE.id}"):
        check(trusting(MINE), make_head().SerializeToString())


def test_a_name_of_a_key_without_its_signature() -> None:
    claimed = make_head()
    claimed.signing_key_id = MINE.id
    claimed.signature = THEIRS.sign(make_head())[-64:]
    with pytest.raises(UntrustedHead, match="were not signed by"):
        check(trusting(MINE), claimed.SerializeToString())


@pytest.mark.parametrize(
    "keys",
    [
        trusting(THEIRS),
        trusting(MINE, domain="forks"),
        trusting(MINE, tenant="other"),
        VerifyKeys(
            {("acme", "protected"): [THEIRS.verify_key], ("acme", "forks"): [MINE.verify_key]}
        ),
        VerifyKeys({}),
    ],
    ids=["another key", "another domain", "another tenant", "a fork's key", "none"],
)
def test_a_key_that_may_not_sign_here(keys: VerifyKeys) -> None:
    with pytest.raises(UntrustedHead, match="may not sign for acme/protected"):
        check(keys, MINE.sign(make_head()))


def test_keys_are_rotated_by_trusting_both_for_a_time() -> None:
    both = trusting(MINE, THEIRS)
    check(both, MINE.sign(make_head()))
    check(both, THEIRS.sign(make_head()))
    assert both.ids("acme", "protected") == sorted([MINE.id, THEIRS.id])
    assert both.ids("acme", "forks") == []


# Key files


def write(directory: Path, text: str | bytes, name: str = "key.pem") -> Path:
    path = directory / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_the_key_pair_of_the_standard(tmp_path: Path) -> None:
    private = SigningKey.read(write(tmp_path, RFC_PRIVATE))
    public = VerifyKey.read(write(tmp_path, RFC_PUBLIC))
    assert private.id == public.id == "e744c0791320c3285460eddb523f14c8"
    raw = private.sign(make_head())
    assert public.verifies(raw[:-66], raw[-64:])


def run(*argv: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(argv, input=stdin, check=True, capture_output=True).stdout


def test_keys_that_openssl_made(tmp_path: Path) -> None:
    """The commands of docs/operations.md."""
    key, public = str(tmp_path / "signing.pem"), str(tmp_path / "verify.pem")
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", key)
    run("openssl", "pkey", "-in", key, "-pubout", "-out", public)
    signing, verify = SigningKey.read(Path(key)), VerifyKey.read(Path(public))
    der = run("openssl", "pkey", "-pubin", "-in", public, "-outform", "DER")
    assert signing.id == verify.id
    assert verify.id == run("sha256sum", stdin=der[-32:]).decode()[:32]
    check(VerifyKeys({("acme", "protected"): [verify]}), signing.sign(make_head()))


def pem_of_other_kinds() -> dict[str, bytes]:
    ed, ec = Ed25519PrivateKey.generate(), generate_private_key(SECP256R1())
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    info = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "private": ed.private_bytes(*plain),
        "locked": ed.private_bytes(*locked),
        "public": ed.public_key().public_bytes(*info),
        "private-ec": ec.private_bytes(*plain),
        "public-ec": ec.public_key().public_bytes(*info),
        "noise": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "two": RFC_PUBLIC.encode() * 2,
        "none": b"hello\n",
        "huge": RFC_PUBLIC.encode() + b"\n" * (1 << 17),
    }


OTHERS = pem_of_other_kinds()


@pytest.mark.parametrize("kind", sorted(OTHERS.keys() - {"private"}))
def test_files_that_cannot_sign(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"key\.pem") as caught:
        SigningKey.read(write(tmp_path, OTHERS[kind]))
    assert not [
        line for line in OTHERS[kind].splitlines()[1:2] if line.decode() in str(caught.value)
    ]


@pytest.mark.parametrize("kind", sorted(OTHERS.keys() - {"public"}))
def test_files_that_cannot_verify(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"key\.pem"):
        VerifyKey.read(write(tmp_path, OTHERS[kind]))


def test_a_private_key_is_not_given_to_readers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a private key"):
        VerifyKey.read(write(tmp_path, RFC_PRIVATE))


@pytest.mark.parametrize("read", [SigningKey.read, VerifyKey.read])
def test_a_file_that_is_not_there(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "missing.pem")
