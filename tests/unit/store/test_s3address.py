"""Addresses of buckets."""

from __future__ import annotations

import pytest

from buildsvc.errors import ConfigError
from buildsvc.store.address import parse_address
from buildsvc.store.s3address import S3Address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("s3://bucket", S3Address("bucket")),
        ("s3://bucket/", S3Address("bucket")),
        ("s3://b.c-1/a/B_2", S3Address("b.c-1", "a/B_2/")),
        ("s3://bucket/a/?region=eu-west-1", S3Address("bucket", "a/", region="eu-west-1")),
        (
            "s3://bucket?endpoint=https://minio:9000/&style=path",
            S3Address("bucket", endpoint="https://minio:9000"),
        ),
        (
            "s3://bucket?endpoint=http%3A%2F%2F[::1]:9&style=virtual",
            S3Address("bucket", endpoint="http://[::1]:9", virtual=True),
        ),
    ],
)
def test_addresses(address: str, expected: S3Address) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "s3://", "s3:///prefix", "s3://Bucket", "s3://bu", "s3://bucket:9000/a", "s3://bucket/a#b",
        "s3://bucket/a//b", "s3://bucket/../b", "s3://bucket/a b", "s3://bucket/a%00", "s3://bucket/%2e%2e",
        "s3://bucket/.hidden", f"s3://bucket/{'x' * 401}",
        "s3://bucket?region", "s3://bucket?region=", "s3://bucket?region=EU WEST",
        "s3://bucket?region=a&region=b", "s3://bucket?secret=x", "s3://bucket?style=Path",
        "s3://bucket?endpoint=", "s3://bucket?endpoint=minio:9000", "s3://bucket?endpoint=ftp://minio",
        "s3://bucket?endpoint=http://", "s3://bucket?endpoint=http://minio/path",
        "s3://bucket?endpoint=http://minio?a=b", "s3://bucket?endpoint=http://minio:x",
        "s3://bucket?endpoint=http://minio:99999", "s3://bucket?endpoint=http://mi nio",
    ],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="expected: s3://"):
        parse_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:hunter2@bucket/",
        "s3://bucket?endpoint=http://key:hunter2@minio",
        "s3://bucket?hunter2",
        "s3://bucket?secret=hunter2",
        "s3://bucket?region=hunter2!",
        "s3://bucket#hunter2",
        "s3://hunter2!/",
    ],
)
def test_what_may_be_a_secret_is_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(address)
    assert "hunter2" not in str(caught.value)
