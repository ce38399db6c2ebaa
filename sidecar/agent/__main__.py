"""`python -m sidecar.agent`: the agent without the rest of the command line."""

from __future__ import annotations

import sys

from sidecar.agent.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
