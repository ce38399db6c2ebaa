"""Entry point of ``buildsvc`` and ``python -m buildsvc``."""

from __future__ import annotations

import sys
from typing import NoReturn

from buildsvc.ending import end


def main() -> int:
    """Run one command and return its exit code, one of sysexits(3)."""
    # These have parsers of their own, and do without what the other commands import. A pipeline
    # waits for the step.
    if sys.argv[1:2] == ["image-build"]:
        from buildsvc.imagebuild.command import main as build

        return build(sys.argv[2:])
    if sys.argv[1:2] == ["doctor"]:
        from buildsvc.doctor.command import main as doctor

        return doctor(sys.argv[2:])
    if sys.argv[1:2] == ["webhook"]:
        from buildsvc.webhook.command import main as webhook

        return webhook(sys.argv[2:])
    from buildsvc.cli import main as run

    return run(sys.argv[1:])


def run() -> NoReturn:
    """Be the program."""
    end(main)


if __name__ == "__main__":
    run()
