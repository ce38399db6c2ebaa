"""The endpoint file: tells scripts where to connect to, whatever port the kernel chose."""

from __future__ import annotations

import json
from pathlib import Path

from buildsvc.errors import CannotCreate
from buildsvc.files import write_file
from sidecar.endpoint import Address
from sidecar.tls import ClientFiles


def write_endpoint_file(path: Path, address: Address, client: ClientFiles | None) -> None:
    """Write the file, whole at any moment; ``client`` is None for plain TCP.

    A JSON object: ``address`` (host:port), ``url`` (for ``buildctl --addr``), ``tls``,
    ``tlsdir`` (for ``buildctl --tlsdir``), ``ca``, ``cert``, ``key`` (paths, null for plain
    TCP). Blocks. Raises CannotCreate.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreate(f"cannot create the directory {path.parent}: {error}") from error
    content = {
        "address": str(address),
        "url": f"tcp://{address}",
        "tls": client is not None,
        "tlsdir": str(client.directory) if client else None,
        "ca": str(client.ca) if client else None,
        "cert": str(client.cert) if client else None,
        "key": str(client.key) if client else None,
    }
    # Paths only: whoever may connect may read it.
    write_file(path, json.dumps(content, indent=2).encode() + b"\n", mode=0o644)
