"""Entry point of ``buildsvc`` and ``python -m buildsvc``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run one command and return its exit code, one of sysexits(3)."""
    # A pipeline waits for the step, which does without what the other commands import.
    if sys.argv[1:2] == ["image-build"]:
        from buildsvc.imagebuild.command import main as build

        return build(sys.argv[2:])
    from buildsvc.cli import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
