"""What of the sidecar's environment is seen inside the user namespace."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

#: Variables that daemon and agent may see. An allow-list: the sidecar's environment holds
#: the store's credentials, and what is inside the namespace is nearer to RUN steps.
_PASSED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPYCACHEPREFIX",
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def allowed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what may be seen inside the namespace.

    A proxy's address is needed to pull; one with a password in it stays outside.
    """
    passed = {name: environ[name] for name in _PASSED if name in environ}
    for name in (*_PROXIES, *(proxy.lower() for proxy in _PROXIES)):
        if name in environ and not urlsplit(environ[name]).password:
            passed[name] = environ[name]
    return passed
