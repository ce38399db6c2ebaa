"""The address of a store: what it says, and as it may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from buildsvc.errors import ConfigError
from buildsvc.store.ossaddress import OSS_FORM, OssAddress, oss_address
from buildsvc.store.s3address import S3_FORM, S3Address, s3_address

_MASK = "***"
_KINDS = (
    f"file:///directory, a path, http(s)://host[:port][/base], {OSS_FORM.text}, or {S3_FORM.text}"
)

# The user information reaches to the last @, because who writes a password does not always
# encode it. What is left must be a host and a port, or it is the beginning of a password.
_KNOWN = re.compile(
    r"(?P<user>[^/]*@)?(?P<host>[^/@?#:\[\]]*|\[[0-9a-fA-F:.]*\])(?P<port>:[0-9]*)?"
    r"(?P<path>/[^?#]*)?(?P<query>\?.*)?(?P<fragment>#.*)?",
    re.DOTALL,
)


def shown_address(address: str) -> str:
    """The address without user information, query and fragment, which may hold secrets.

    Little is left of one that is malformed: nobody knows what is the secret in it.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    parts = _KNOWN.fullmatch(rest)
    # An @ in a path may be the end of a password with a slash.
    if parts is None or (parts["host"] and "@" in (parts["path"] or "")):
        return f"{scheme}://{_MASK}"
    user = f"{_MASK}@" if parts["user"] else ""
    query = f"?{_MASK}" if parts["query"] else ""
    return f"{scheme}://{user}{parts['host']}{parts['port'] or ''}{parts['path'] or ''}{query}"


@dataclass(frozen=True, slots=True)
class DirectoryAddress:
    """A directory of this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """An object server."""

    base: str


Address = DirectoryAddress | HttpAddress | OssAddress | S3Address


def parse_address(address: str) -> Address:
    """What a store's address says; needs no store to be imported.

    Raises:
        ConfigError: it is of no known kind, or has in it what no such address has.
    """
    parts = _split(address)
    if "://" not in address:
        return DirectoryAddress(Path(address).absolute())
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment:
            raise ConfigError(
                "a file address names a directory of this machine",
                expected="file:///directory",
                found=shown_address(address),
            )
        return DirectoryAddress(Path(unquote(parts.path)))
    if "@" in parts.netloc:
        # Not repeated in the text: it ends in logs.
        raise ConfigError(
            "the store's address contains credentials",
            expected=f"an address without user and password: {_KINDS}",
            advice="addresses are logged and seen in process lists; take them out",
        )
    match parts.scheme:
        case "http" | "https":
            if not parts.hostname or parts.query or parts.fragment:
                raise ConfigError(
                    "not the address of an object server",
                    expected="http://host[:port][/base]",
                    found=shown_address(address),
                )
            return HttpAddress(address)
        case "oss":
            return oss_address(parts)
        case "s3":
            return s3_address(parts)
    raise ConfigError("no such kind of store", expected=_KINDS, found=shown_address(address))


def uses_instance_role(address: str) -> bool:
    """Whether requests to the store at a valid address are signed as the machine's own role.

    Whoever reaches the machine's metadata address can have that role. Raises ConfigError.
    """
    parsed = parse_address(address)
    return isinstance(parsed, OssAddress) and parsed.credentials == "ecs"


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        # Looked at only when it is asked for.
        _ = parts.port
    except ValueError as error:
        raise ConfigError(
            "the store's address is malformed", expected=_KINDS, found=shown_address(address)
        ) from error
    if not address or "\0" in address:
        raise ConfigError("the store's address is empty or has a NUL", expected=_KINDS)
    return parts
