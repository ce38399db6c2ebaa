"""`python -m sidecar.agent`: the agent without the rest of the command line."""

from __future__ import annotations

import sys

from sidecar.agent.starting import spares


def main() -> int:
    """Start the workers, then import and run the agent."""
    arguments = sys.argv[1:]
    workers = spares(arguments)
    from sidecar.agent.main import main as agent

    return agent(arguments, workers)


if __name__ == "__main__":
    sys.exit(main())
