"""Wait until the sidecar of this pod has published the cache of the builds that it served.

For systems that kill a job's pod the moment the job ends: elsewhere the sidecar publishes after
it. A cache that is not published costs the next build time and no more, so this always ends well.
Needs nothing but Python.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any

STATUS_URL = "http://127.0.0.1:8378/status"


#: A checkpoint needs an idle daemon, and may be noted this much before the end of its build.
ROUNDING_SECONDS = 0.5


def standing(status: dict[str, Any]) -> str:
    """Return what is waited for, from the sidecar's status; empty when nothing is.

    The state of a build is in the store when a checkpoint that began after it, and a publication
    that began after that one, have both ended well.
    """
    spans = status["timeline"]
    builds = [span for span in spans if span["kind"] == "build"]
    if any(span["end"] is None for span in builds):
        return "a build"
    since = max((span["end"] for span in builds), default=None)
    if since is None:
        return ""
    for kind in ("checkpoint", "publish"):
        ends = [
            span["begin"]
            for span in spans
            if span["kind"] == kind
            and span["outcome"] == "ok"
            and span["begin"] >= since - ROUNDING_SECONDS
        ]
        if not ends:
            return kind
        since = min(ends)
    return ""


def main(arguments: list[str]) -> int:
    """Wait for at most the seconds of the one argument; 64 where that is no number."""
    try:
        (text,) = arguments
        seconds = float(text)
    except ValueError:
        print(f"wait-for-cache: expected a number of seconds, found {arguments}", file=sys.stderr)
        return 64
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(STATUS_URL, timeout=5) as answer:
                what = standing(json.load(answer))
        except (OSError, ValueError, KeyError) as error:
            print(f"wait-for-cache: the sidecar does not say: {error}; going on", file=sys.stderr)
            return 0
        if not what:
            print("wait-for-cache: the cache is in the store", file=sys.stderr)
            return 0
        if time.monotonic() >= until:
            print(
                f"wait-for-cache: not published after {seconds:g} s ({what}); going on",
                file=sys.stderr,
            )
            return 0
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
