"""The commands that talk to a running sidecar, and what they print."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any, TextIO

from buildsvc.errors import BuildsvcError, EnvironmentUnfit
from sidecar.bundle import write_bundle
from sidecar.control import ask
from sidecar.settings import Settings

# A sidecar that has just been started has no command socket for a moment.
_RETRY_SECONDS = 0.05


class NotInTime(BuildsvcError):
    """What was waited for did not come in time (EX_TEMPFAIL)."""

    exit_code = 75


async def _first(root: Path, command: str) -> Any:  # noqa: ANN401  the answer's JSON
    async with aclosing(ask(root, command)) as answers:
        async for answer in answers:
            return answer
    return None


async def show_status(root: Path, *, as_json: bool, out: TextIO) -> None:
    """Print the status once."""
    status = await _first(root, "status")
    out.write(json.dumps(status, indent=2) + "\n" if as_json else status_text(status))


async def follow_status(root: Path, out: TextIO) -> None:
    """Print the status as a line of JSON whenever it changes, until the sidecar stops.

    Of the timeline each line has what changed since the line before.
    """
    async with aclosing(ask(root, "follow")) as answers:
        async for answer in answers:
            out.write(json.dumps(answer) + "\n")
            out.flush()


async def wait_ready(root: Path, timeout: float) -> None:
    """Wait until builds are served, for a sidecar that is still to come too.

    Raises NotInTime after ``timeout`` seconds, EnvironmentUnfit when the sidecar has stopped.
    """
    last = "no sidecar was started with this root"
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    status = await _first(root, "wait-ready")
                except EnvironmentUnfit as error:
                    last = str(error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                if status["ready"]:
                    return
                raise EnvironmentUnfit("the sidecar has stopped", found=status["phase"])
    except TimeoutError:
        raise NotInTime(
            "no build is served yet",
            expected=f"readiness within {timeout:g}s",
            found=last,
            advice="see `sidecar status` and the sidecar's log",
        ) from None


async def checkpoint(root: Path, out: TextIO) -> bool:
    """Have a checkpoint published, print what it was as JSON, return whether there was one."""
    report = await _first(root, "checkpoint")
    out.write(json.dumps(report, indent=2) + "\n")
    return bool(report["published"])


async def debug_bundle(settings: Settings, output: Path | None, out: TextIO) -> None:
    """Write the bundle and print its name; works without a running sidecar too."""
    status, recent = None, []
    try:
        status = await _first(settings.root, "status")
        recent = await _first(settings.root, "logs")
    except BuildsvcError as error:
        sys.stderr.write(f"sidecar: warning: {error}\n")
    name = time.strftime("sidecar-debug-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime())
    path = output or Path(name)
    await asyncio.to_thread(write_bundle, path, settings, status, recent)
    out.write(f"{path}\n")


def status_text(status: dict[str, Any]) -> str:
    """Return the status for people."""
    lines = [f"{'phase':12} {status['phase']}"]

    def add(title: str, text: str) -> None:
        lines.append(f"{title:12} {text}")

    if status["waiting_for"]:
        add("waiting for", status["waiting_for"])
    endpoint = status["endpoint"]
    if endpoint["address"]:
        add("endpoint", f"tcp://{endpoint['address']}" + (" (mutual TLS)" * endpoint["tls"]))
    if status["http"]:
        add("pages", f"http://{status['http']}/")
    if status["cold_reason"] is not None:
        add("cold", status["cold_reason"])
    for which in ("restored", "published"):
        if status[which] is not None:
            add(which, _generation(status[which]))
    objects, by, counts = status["objects"], status["by"], status["counts"]
    if objects["total"]:
        size = sum(by.get("fetched_bytes", {}).values())
        add(
            "fetched",
            f"{objects['fetched']} of {objects['total']} objects, {size / 1e6:.1f} MB: "
            f"{objects['demand']} on demand, {objects['prefetch']} in time, "
            f"{objects['never_needed']} not needed",
        )
        add(
            "waited",
            f"{status['demand_waited_seconds']:.2f} s for {counts.get('demand_waits', 0)} objects",
        )
    if by.get("builds"):
        add("builds", ", ".join(f"{count} {what}" for what, count in by["builds"].items()))
    if counts.get("uploaded_bytes"):
        add("uploaded", f"{counts['uploaded_bytes'] / 1e6:.1f} MB")
    advice = status["advice"]
    if advice["what"] != "ok":
        add("advice", f"{advice['what']}: {advice['detail']}")
    return "\n".join(lines) + "\n"


def _generation(found: dict[str, Any]) -> str:
    asked = found["asked_key"]
    domain = found["found_domain"]
    where = f" of trust domain {domain}" if domain else ""
    text = f"{found['found_key']}{where} #{found['number']}, {found['age_seconds']:.0f} s old"
    if domain or asked != found["found_key"]:
        text += f", fallback for {asked}"
    return f"{text}, because {found['because']}" if found["because"] else text
