"""What an address of OSS says, and what is none."""

from __future__ import annotations

import pytest

from buildsvc.errors import ConfigError
from buildsvc.store.address import parse_address, shown_address
from buildsvc.store.ossaddress import OssAddress

PUBLIC = "https://oss-cn-hangzhou.aliyuncs.com"
INTERNAL = "https://oss-cn-hangzhou-internal.aliyuncs.com"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("oss://bucket?region=cn-hangzhou", OssAddress("bucket", "", "cn-hangzhou", PUBLIC, None)),
        (
            "oss://b-1/CI/cache/?region=cn-hangzhou&internal=true&credentials=oidc",
            OssAddress("b-1", "CI/cache", "cn-hangzhou", INTERNAL, "oidc"),
        ),
        (
            f"oss://bucket/a?region=us-east-1&endpoint={INTERNAL}/",
            OssAddress("bucket", "a", "us-east-1", INTERNAL, None),
        ),
        (
            "oss://bucket?endpoint=http%3A%2F%2Foss.local%3A81&region=cn-hangzhou&credentials=ecs",
            OssAddress("bucket", "", "cn-hangzhou", "http://oss.local:81", "ecs"),
        ),
    ],
)
def test_addresses(address: str, expected: OssAddress) -> None:
    assert parse_address(address) == expected


def bucket(address: str) -> OssAddress:
    parsed = parse_address(address)
    assert isinstance(parsed, OssAddress)
    return parsed


def test_what_follows_from_an_address() -> None:
    address = bucket("oss://bucket/ci/cache?region=cn-hangzhou&internal=true")
    assert address.bucket_url == "https://bucket.oss-cn-hangzhou-internal.aliyuncs.com"
    assert address.internal
    assert address.key("packs/a") == "ci/cache/packs/a"
    assert address.name("ci/cache/packs/a") == "packs/a"
    whole = bucket("oss://bucket?region=cn-hangzhou")
    assert not whole.internal
    assert whole.name(whole.key("packs/a")) == whole.key("packs/a") == "packs/a"


@pytest.mark.parametrize(
    "address",
    [
        "oss://bucket",
        "oss://bucket?region=",
        "oss://bucket?region=oss-cn-hangzhou",
        "oss://bucket?region=hangzhou",
        "oss://bucket?region=cn-hangzhou&region=cn-beijing",
        "oss://bucket?region=cn-hangzhou&key=1",
        "oss://bucket?region=cn-hangzhou&internal=yes",
        "oss://bucket?region=cn-hangzhou&credentials=none",
        "oss://bucket?region=cn-hangzhou#a",
        "oss://bucket?region",
        "oss://bu?region=cn-hangzhou",
        "oss://Bucket?region=cn-hangzhou",
        "oss://bucket:80?region=cn-hangzhou",
        "oss://-bucket?region=cn-hangzhou",
        "oss:///a?region=cn-hangzhou",
        "oss://bucket/a//b?region=cn-hangzhou",
        "oss://bucket/.a?region=cn-hangzhou",
        "oss://bucket/a%20b?region=cn-hangzhou",
        f"oss://bucket/{'a' * 401}?region=cn-hangzhou",
        f"oss://bucket?region=cn-hangzhou&internal=true&endpoint={PUBLIC}",
        "oss://bucket?region=cn-hangzhou&endpoint=oss-cn-hangzhou.aliyuncs.com",
        "oss://bucket?region=cn-hangzhou&endpoint=https://host/path",
        "oss://bucket?region=cn-hangzhou&endpoint=https://host:port",
        "oss://bucket?region=cn-hangzhou&endpoint=https://host:99999",
        "oss://bucket?region=cn-hangzhou&endpoint=https://",
        "oss://bucket?region=cn-hangzhou&endpoint=http://127.0.0.1:80",
        "oss://bucket?region=cn-hangzhou&endpoint=http://[::1]:80",
        "oss://bucket?region=cn-hangzhou&endpoint=https://u@host",
    ],
)
def test_what_is_none(address: str) -> None:
    with pytest.raises(ConfigError, match="expected: oss://bucket"):
        parse_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "oss://LTAI:hunter2@bucket?region=cn-hangzhou",
        "oss://LTAI:hunter2/a?region=cn-hangzhou",
        "oss://bucket?region=cn-hangzhou&secret=hunter2",
        "oss://bucket?region=cn-hangzhou&endpoint=https://LTAI:hunter2@host",
    ],
)
def test_what_may_be_a_secret_is_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(address)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in shown_address(address)
