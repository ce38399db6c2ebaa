"""From a store's address to the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from buildsvc.errors import ConfigError
from buildsvc.store.address import shown_address
from buildsvc.store.local import LocalStore
from buildsvc.store.timeouts import DEFAULT_TIMEOUTS, HttpTimeouts

if TYPE_CHECKING:
    from buildsvc.store.contract import Store


def open_store(
    address: str, timeouts: HttpTimeouts = DEFAULT_TIMEOUTS, connections: int = 16
) -> Store:
    """The bare store at ``file:///directory``, a plain path, or ``http(s)://host[:port][/base]``.

    ``connections`` bounds what is asked of a server at one time.
    Touches neither disk nor network; the first operation does. Wrappers are the caller's choice.

    Raises:
        ConfigError: the address is of no known kind.
    """
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise ConfigError(
            "the store's address is malformed", expected=_KINDS, found=shown_address(address)
        ) from error
    if not address or "\0" in address:
        raise ConfigError("the store's address is empty or has a NUL", expected=_KINDS)
    if "://" not in address:
        return LocalStore(Path(address).absolute())
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment:
            raise ConfigError(
                "a file address names a directory of this machine",
                expected="file:///directory",
                found=shown_address(address),
            )
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme in {"http", "https"}:
        if "@" in parts.netloc:
            # Not repeated in the text: it ends in logs.
            raise ConfigError(
                "the store's address contains credentials",
                expected="an address without user and password",
                advice="addresses are logged and seen in process lists; take them out",
            )
        if not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(
                "not the address of an object server",
                expected="http://host[:port][/base]",
                found=shown_address(address),
            )
        # A pod with another store does not wait for an HTTP client to be imported.
        from buildsvc.store.http import HttpStore

        return HttpStore(address, timeouts, connections)
    raise ConfigError("no such kind of store", expected=_KINDS, found=shown_address(address))


_KINDS = "file:///directory, a path, or http(s)://host[:port][/base]"
