"""The agent's process: builds the objects, serves until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from buildsvc._proto.containerd.services.snapshots.v1 import snapshots_pb2_grpc
from buildsvc.errors import BuildsvcError
from sidecar.agent.core import AgentOptions, Ending, build_core, serve
from sidecar.agent.service import SnapshotsService

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.agent.starting import Started

_GRACE = 5.0
"""Seconds that buildkitd's calls have to end."""


async def run_agent(options: AgentOptions, spares: Sequence[Started] = ()) -> int:
    """Serves until SIGTERM or SIGINT, or until the root is lost; answers the exit code.

    Mounts stay for the next process. Raises RootInUse, CannotCreate, EnvironmentUnfit, ConfigError.
    """
    ending = Ending()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.end)
    async with AsyncExitStack() as stack:
        core = await build_core(options, stack)
        if options.control is not None:
            # Here, because what stands alone needs none of it and should answer at once.
            from sidecar.agent.control import serve_control

            await serve_control(options, core, ending, stack, spares)
        server = grpc.aio.server()
        snapshots_pb2_grpc.add_SnapshotsServicer_to_server(
            SnapshotsService(core.snapshotter), server
        )
        await serve(server, options.socket, stack, grace=_GRACE)
        return await ending.wait()


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


def main(arguments: Sequence[str], spares: Sequence[Started] = ()) -> int:
    """Runs `sidecar agent ARGUMENTS`; answers its exit code."""
    try:
        return asyncio.run(run_agent(parse(arguments), spares))
    except BuildsvcError as error:
        print(f"sidecar agent: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
