"""The display on a terminal: what the sidecar is doing, in a few lines below the log."""

from __future__ import annotations

import asyncio
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sidecar.status import Advice, Phase, Status
from sidecar.timeline import Kind, Span

_REDRAW_SECONDS = 0.1
_LINES = 8


async def show(status: Status, console: Console | None = None) -> None:
    """Show the status until the sidecar stops; redraw when it changes, ten times a second at most.

    Log lines that are written to standard error meanwhile appear above.
    """
    console = console or Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            seen = status.version
            live.update(render(status), refresh=True)
            if status.phase is Phase.STOPPED:
                return
            await asyncio.sleep(_REDRAW_SECONDS)
            await status.changed(seen)


def render(status: Status) -> RenderableType:
    """Return the lines for the status as it is."""
    lines: list[RenderableType] = [_headline(status)]
    running = [span for span in status.timeline if span.finish is None]
    if running:
        table = Table.grid(padding=(0, 2))
        for span in running[-_LINES:]:
            table.add_row(f"  {span.kind.value}", _short(span.name), _detail(span))
        lines.append(table)
    if status.advice is not Advice.OK:
        lines.append(Text(f"  {status.advice.value}: {status.advice_detail}", style="bold red"))
    return Group(*lines)


def _headline(status: Status) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{status.phase.value} ", style="bold green" if status.ready else "bold yellow")
    if not status.ready:
        text.append(f"({status.waiting_for}) ", style="yellow")
    if status.endpoint:
        text.append(f"tcp://{status.endpoint} ")
    if status.restored is not None:
        text.append(f"· {status.restored.found_key} #{status.restored.number} ", style="cyan")
    elif status.cold_reason is not None:
        text.append(f"· cold: {status.cold_reason} ", style="red")
    objects = status.counts.objects()
    if objects["total"]:
        text.append(f"· {objects['fetched']}/{objects['total']} objects ")
        text.append(f"{_megabytes(sum(status.counts.family('fetched_bytes').values()))} ")
    if status.counts.plain["uploaded_bytes"]:
        text.append(f"· {_megabytes(status.counts.plain['uploaded_bytes'])} uploaded ")
    if status.published is not None:
        at = time.strftime("%H:%M:%S", time.localtime(status.published.created_unix))
        text.append(f"· published #{status.published.number} at {at}", style="green")
    return text


def _detail(span: Span) -> str:
    why = span.attributes.get("why")
    cause = f" ({why})" if span.kind is Kind.FETCH and why else ""
    return f"{span.seconds:.1f} s{cause}"


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"{name[:22]}…{name[-24:]}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
