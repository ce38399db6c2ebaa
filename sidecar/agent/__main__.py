"""`python -m sidecar.agent`: the agent without the rest of the command line."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc.errors import BuildsvcError
from sidecar.agent.main import AgentOptions, run_agent

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse(arguments: Sequence[str]) -> AgentOptions:
    """Exits with code 2 and a message when the arguments make no sense."""
    parser = argparse.ArgumentParser(prog="sidecar agent", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="directory of the snapshots")
    parser.add_argument("--socket", type=Path, required=True, help="containerd's Snapshots API")
    parser.add_argument("--control", type=Path, help="the sidecar's API")
    parser.add_argument("--staging", type=Path, help="directory for packs that come and go")
    parser.add_argument("--buildkit-root", type=Path, help="buildkitd's root directory")
    parser.add_argument("--guard-fd", type=int, help="socket to the guard process")
    parser.add_argument("--workers", type=int, default=2, help="processes that unpack")
    return AgentOptions(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the agent; answers its exit code."""
    try:
        return asyncio.run(run_agent(parse(sys.argv[1:] if arguments is None else arguments)))
    except BuildsvcError as error:
        print(f"sidecar agent: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
