"""From a store's address to the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from buildsvc.store.address import DirectoryAddress, HttpAddress, parse_address
from buildsvc.store.local import LocalStore
from buildsvc.store.ossaddress import OssAddress
from buildsvc.store.s3address import S3Address
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
    # A pod with another store does not wait for one's client to be imported.
    match parse_address(address):
        case DirectoryAddress(path):
            return LocalStore(path)
        case HttpAddress(base):
            from buildsvc.store.http import HttpStore

            return HttpStore(base, timeouts, connections)
        case OssAddress() as bucket:
            from buildsvc.store.oss import OssStore
            from buildsvc.store.osslookup import LookedUpCredentials
            from buildsvc.store.ossrenewal import RenewedCredentials

            credentials = RenewedCredentials(LookedUpCredentials(bucket, os.environ))
            return OssStore(bucket, credentials, timeouts, connections)
        case S3Address() as bucket:
            from buildsvc.store.s3 import S3Store

            return S3Store(bucket, timeouts, connections)
