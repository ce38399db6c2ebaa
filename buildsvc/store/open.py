"""From a store's address to the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from buildsvc.store.address import check_address
from buildsvc.store.local import LocalStore
from buildsvc.store.s3address import s3_address
from buildsvc.store.timeouts import DEFAULT_TIMEOUTS, HttpTimeouts

if TYPE_CHECKING:
    from buildsvc.store.contract import Store


def open_store(
    address: str, timeouts: HttpTimeouts = DEFAULT_TIMEOUTS, connections: int = 16
) -> Store:
    """The bare store at ``file:///directory``, a plain path, ``http(s)://…``, ``oss://…`` or
    ``s3://…``.

    ``connections`` bounds what is asked of a server at one time.
    Touches neither disk nor network, and looks for no credentials; the first operation does.
    Wrappers are the caller's choice.

    Raises:
        ConfigError: the address is of no known kind.
    """
    parts = check_address(address)
    if "://" not in address:
        return LocalStore(Path(address).absolute())
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)))
    # A pod with another store does not wait for these to be imported.
    if parts.scheme == "oss":
        from buildsvc.store.oss import OssStore
        from buildsvc.store.ossaddress import parse_oss_address
        from buildsvc.store.osscredentials import LookedUpCredentials
        from buildsvc.store.ossrenewal import RenewedCredentials

        bucket = parse_oss_address(address)
        credentials = RenewedCredentials(LookedUpCredentials(bucket, os.environ))
        return OssStore(bucket, credentials, timeouts, connections)
    if parts.scheme == "s3":
        from buildsvc.store.s3 import S3Store

        return S3Store(s3_address(parts), timeouts, connections)
    from buildsvc.store.http import HttpStore

    return HttpStore(address, timeouts, connections)
