"""Tries a real store for everything that is relied on, and says what would break.

Each probe tests one promise of the contract, under a prefix that nobody else uses, and what was
written is deleted in the end. The probes are in ``probes``.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from buildsvc.errors import StoreError, StoreRefused, StoreUnavailable
from buildsvc.failures import cause
from buildsvc.store import probes
from buildsvc.store.probes import Bench, Broken, Probe, Untested
from buildsvc.store.retry import DEFAULT_POLICY, RetryingStore, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from buildsvc.store.contract import Store

State = Literal["kept", "broken", "untested"]

_OTHER_STORE = "use another kind of store, or ask its makers; nothing here works around it"

PROBES = (
    Probe(
        "read after write",
        probes.read_after_write,
        "a pod would restore an old state, or miss what another has just published",
        "switch off caches between here and the store; " + _OTHER_STORE,
    ),
    Probe(
        "absent objects",
        probes.absent,
        "a pod looks for newer generations until there is none: it would find none, or no end",
        "give the identity the right to list (s3:ListBucket), or correct the address",
    ),
    Probe(
        "create-only",
        probes.create_only,
        "two builds could publish the same generation, and one of them would be lost",
        "use a server, or a version of it, that has conditional writes, on a bucket whose "
        "versioning does not switch them off",
    ),
    Probe(
        "one winner",
        probes.one_winner,
        "two builds at the same moment could publish the same generation",
        "use a server whose conditional writes are atomic, also behind its load balancer",
    ),
    Probe(
        "ranges",
        probes.ranges,
        "nothing can be restored lazily: chunks are read as ranges of packs",
        "look for a proxy that drops the header Range; " + _OTHER_STORE,
    ),
    Probe(
        "large objects",
        probes.large,
        "packs could not be stored, or not be read",
        "raise the size limits of server and proxies",
    ),
    Probe(
        "lists",
        probes.listing,
        "the newest generation is found slowly, garbage not at all",
        "use a general purpose bucket; " + _OTHER_STORE,
    ),
    Probe(
        "deletion",
        probes.deletion,
        "garbage would stay, or what was deleted would be found again",
        "switch off caches between here and the store; " + _OTHER_STORE,
    ),
    Probe(
        "clock",
        probes.clock,
        "requests are signed with a time, and S3 refuses one that is 15 minutes off; ages of "
        "generations would be wrong",
        "set the clock of this machine, or the server's (NTP)",
    ),
)

# Deletions at a time.
_DELETIONS = 16
# Seconds for removing what was written, also after an interrupt.
_CLEANING = 120.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one probe."""

    probe: str
    state: State
    seen: str
    seconds: float
    breaks: str = ""
    """What would not work; only if it is broken."""
    advice: str = ""


@dataclass(slots=True)
class Report:
    """What was found out about a store."""

    findings: list[Finding] = field(default_factory=list)
    retries: int = 0
    """Operations that failed in passing and were tried again."""
    left_behind: list[str] = field(default_factory=list)
    """Names of objects that could not be removed, or of which it is not known."""
    error: StoreError | None = None
    """Why the store cannot be used at all; then the findings are not complete."""

    @property
    def kept(self) -> bool:
        """Whether everything that was tested is as it must be."""
        return self.error is None and all(one.state != "broken" for one in self.findings)


async def check_store(
    open_one: Callable[[], Store],
    directory: Path,
    *,
    large: int,
    progress: Callable[[Probe, Finding | None], None],
    policy: RetryPolicy = DEFAULT_POLICY,
) -> Report:
    """Probe the store that ``open_one`` opens; it is opened twice, as two pods do.

    Files are made in ``directory``, which is the caller's to remove; ``large`` is the size of the
    largest, in bytes. ``progress`` is told of each probe when it begins, and of its finding when
    it has ended. Errors of the store are part of the report. Cleans up when it is cancelled, too.
    """
    report = Report()

    def on_retry(_operation: str, _attempt: int, _error: BaseException) -> None:
        report.retries += 1

    first, second = (RetryingStore(open_one(), policy, on_retry=on_retry) for _ in range(2))
    bench = Bench(first, second, f"check/{secrets.token_hex(8)}-", directory, large)
    try:
        async with _cleaning(bench, report):
            for probe in PROBES:
                progress(probe, None)
                finding = await _try(probe, bench, report)
                report.findings.append(finding)
                progress(probe, finding)
                if report.error is not None:
                    break
    finally:
        await first.close()
        await second.close()
    return report


async def _try(probe: Probe, bench: Bench, report: Report) -> Finding:
    began = time.monotonic()

    def found(state: State, seen: str, breaks: str = "", advice: str = "") -> Finding:
        seconds = time.monotonic() - began
        return Finding(probe.name, state, seen, seconds, breaks, advice)

    try:
        return found("kept", await _alone(probe, bench))
    except Untested as untested:
        return found("untested", str(untested))
    except Broken as broken:
        return found("broken", str(broken), probe.breaks, broken.advice or probe.advice)
    except StoreError as error:
        # The store's own advice is about what has really happened.
        seen, _, advice = str(error).partition("; what to do: ")
        breaks = probe.breaks
        if not report.findings and isinstance(error, StoreUnavailable | StoreRefused):
            report.error = error
            breaks = "nothing can be kept in it"
        return found("broken", seen, breaks, advice or probe.advice)


async def _alone(probe: Probe, bench: Bench) -> str:
    """Run the probe; of several operations that fail at once the first one tells why."""
    try:
        return await probe.run(bench)
    except ExceptionGroup as failures:
        raise cause(failures, (StoreError,)) from None


@asynccontextmanager
async def _cleaning(bench: Bench, report: Report) -> AsyncIterator[None]:
    try:
        yield
    finally:
        report.left_behind = await _clean(bench)


async def _clean(bench: Bench) -> list[str]:
    """Remove what was written; returns what could not be, in order."""
    left = sorted(bench.written)
    gate = asyncio.Semaphore(_DELETIONS)
    refused = False

    async def remove(name: str) -> str | None:
        nonlocal refused
        async with gate:
            if refused:
                return name
            try:
                await bench.store.delete(name)
            except StoreError as error:
                # The rest would be refused, too.
                refused = isinstance(error, StoreRefused)
                return name
            return None

    try:
        async with asyncio.timeout(_CLEANING), asyncio.TaskGroup() as group:
            tasks = [group.create_task(remove(name)) for name in left]
    except TimeoutError:
        return left
    return [name for task in tasks if (name := task.result()) is not None]
