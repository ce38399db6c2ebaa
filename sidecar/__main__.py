"""Entry point of ``sidecar`` and ``python -m sidecar``: binds the endpoint, then goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from buildsvc.ending import end
from buildsvc.errors import BuildsvcError
from sidecar import endpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, one of sysexits(3)."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else ""
    if command == "agent":
        # Inside the user namespace nothing of the sidecar is loaded.
        from sidecar.agent.main import main as agent

        return agent(words[1:])
    early: endpoint.EarlyBind | None = None
    refused: BuildsvcError | None = None
    if command == "run" and not {"-h", "--help"} & set(words):
        try:
            early = endpoint.bind_early(words[1:], os.environ)
        except BuildsvcError as error:
            refused = error
    # Only now: this takes longer than a client's first attempt to connect may.
    from sidecar import cli

    return cli.refuse(refused) if refused else cli.main(words, early)


def run() -> NoReturn:
    """Be the program."""
    end(main)


if __name__ == "__main__":
    run()
