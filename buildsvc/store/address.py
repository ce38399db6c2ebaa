"""The address of a store, as it may be shown."""

from __future__ import annotations

import re

_MASK = "***"

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
