"""Entry point of ``buildsvc`` and ``python -m buildsvc``."""

from __future__ import annotations

import sys

from buildsvc.cli import main as run


def main() -> int:
    """Run one command and return its exit code, one of sysexits(3)."""
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
