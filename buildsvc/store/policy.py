"""Documents that give an identity rights in a bucket: IAM's for S3, RAM's for OSS.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/security_iam_service-with-iam.html and
https://www.alibabacloud.com/help/en/oss/user-guide/authorization-syntax-and-elements
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from buildsvc.errors import UsageError
from buildsvc.store.ossaddress import OssAddress
from buildsvc.store.s3address import S3Address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildsvc.store.address import Address

    Statement: TypeAlias = dict[str, object]


@dataclass(frozen=True)
class Rights:
    """Patterns of objects' names, with ``*`` for anything. No name is empty."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Of those that are written, the ones that may be larger than one request."""
    delete: tuple[str, ...] = ()
    list: tuple[str, ...] = ()
    never_write: tuple[str, ...] = ()
    """Whatever else is said."""


def policy(address: Address, rights: Rights) -> dict[str, object]:
    """The document of the kind of bucket that is at ``address``.

    Raises:
        UsageError: it is no bucket.
    """
    match address:
        case S3Address():
            return {"Version": "2012-10-17", "Statement": _s3(address, rights)}
        case OssAddress():
            return {"Version": "1", "Statement": _oss(address, rights)}
    raise UsageError(
        "only buckets have policies", expected="s3://… or oss://…", found="another kind of store"
    )


def _s3(address: S3Address, rights: Rights) -> list[Statement]:
    bucket = f"arn:aws:s3:::{address.bucket}"
    base = f"{bucket}/{address.prefix}"
    listed = [f"{address.prefix}{name}" for name in rights.list]
    found = [
        *_objects("Read", ("s3:GetObject",), base, rights.read),
        *_objects("Write", ("s3:PutObject",), base, rights.write),
        *_objects("AbortWrite", ("s3:AbortMultipartUpload",), base, rights.files),
        *_objects("Delete", ("s3:DeleteObject",), base, rights.delete),
        *_objects("NeverWrite", ("s3:PutObject",), base, rights.never_write, effect="Deny"),
    ]
    if listed:
        found.append(
            _listing(bucket, "List", "s3:ListBucket", {"StringLike": {"s3:prefix": listed}})
        )
        # A read of what is absent is answered with 404 only to who may list, and has no prefix to
        # compare. Without this it is 403, and nobody finds the newest generation.
        absent = {"Null": {"s3:prefix": "true"}}
        found.append(_listing(bucket, "KnowWhatIsAbsent", "s3:ListBucket", absent))
    return found


def _oss(address: OssAddress, rights: Rights) -> list[Statement]:
    bucket = f"acs:oss:*:*:{address.bucket}"
    base = f"{bucket}/{address.key('')}"
    listed = [address.key(name) for name in rights.list]
    found = [
        *_objects("", ("oss:GetObject",), base, rights.read),
        *_objects("", ("oss:PutObject",), base, rights.write),
        *_objects("", ("oss:DeleteObject",), base, rights.delete),
        *_objects("", ("oss:PutObject",), base, rights.never_write, effect="Deny"),
        # Asked before anything else: see OssStore.
        _listing(bucket, "", "oss:GetBucketVersioning", {}),
    ]
    if listed:
        found.append(
            _listing(bucket, "", "oss:ListObjects", {"StringLike": {"oss:Prefix": listed}})
        )
    return found


def _objects(
    sid: str, actions: tuple[str, ...], base: str, names: tuple[str, ...], effect: str = "Allow"
) -> list[Statement]:
    if not names:
        return []
    return [
        {
            **({"Sid": sid} if sid else {}),
            "Effect": effect,
            "Action": list(actions),
            "Resource": [f"{base}{name}" for name in names],
        }
    ]


def _listing(bucket: str, sid: str, action: str, condition: Mapping[str, object]) -> Statement:
    return {
        **({"Sid": sid} if sid else {}),
        "Effect": "Allow",
        "Action": [action],
        "Resource": [bucket],
        **({"Condition": condition} if condition else {}),
    }
