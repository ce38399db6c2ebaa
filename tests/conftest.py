"""What all tests have in common: no blocking calls in the event loop, nothing left behind."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

# The default database lies in the source tree, which may belong to another user; a machine that
# is busy must not fail a test.
settings.register_profile("buildsvc", database=None, deadline=None)
settings.load_profile("buildsvc")

_UNIT = Path(__file__).parent / "unit"
#: The name of the property that has what a test reports.
_SAID = "said"
#: Seconds within which a task that was told to end must have ended.
_ENDING = 2.0
#: Calls that look blocking and are not worth a thread: files of /proc, directories and the end of
#: a log that the kernel has in memory, read once at a start or an end.
_HARMLESS = (
    ("io.TextIOWrapper.read", "sidecar/agent/leases.py", "break_time"),
    ("os.listdir", "sidecar/agent/packing.py", "_running"),
    ("os.unlink", "sidecar/agent/leases.py", "probe"),
    ("os.unlink", "sidecar/agent/leases.py", "place"),
    ("os.unlink", "sidecar/agent/leases.py", "_create"),
    ("os.unlink", "sidecar/agent/packing.py", "release"),
    ("os.read", "sidecar/agent/starting.py", "__init__"),
    ("os.stat", "sidecar/userns.py", "check"),
    ("os.access", "sidecar/userns.py", "check"),
    ("os.stat", "sidecar/daemonsettings.py", "program"),
    ("os.access", "sidecar/daemonsettings.py", "program"),
    ("io.TextIOWrapper.read", "sidecar/userns.py", "_check_kernel"),
    ("os.mkdir", "sidecar/rootlesskit.py", "start_guard"),
    ("io.BufferedReader.read", "sidecar/rootlesskit.py", "said"),
    ("os.statvfs", "sidecar/room.py", "free"),
    ("io.BufferedWriter.write", "buildsvc/webhook/tls.py", "use"),
    # Of the tool that measures coverage, when several threads come to new code at one moment.
    ("threading.Lock.acquire", "coverage/collector.py", "lock_data"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of single tests."""
    group = parser.getgroup("campaigns", "those of tests/integration")
    group.addoption("--kill-points", type=int, default=28, help="processes to kill (28)")
    group.addoption("--kill-seed", type=int, default=0, help="repeat a campaign (random)")
    group.addoption("--flips", type=int, default=10, help="bits of a store to flip (10)")


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell people something that a test found, at the end of the run."""
    return lambda text: record_property(_SAID, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests reported: a process of several that run them has no terminal."""
    for outcome in ("passed", "failed"):
        for done in terminalreporter.getreports(outcome):
            for name, text in done.user_properties:
                if name == _SAID and done.when == "call":
                    terminalreporter.write_line(str(text))


@pytest.fixture(scope="session", autouse=True)
def _no_setting_of_the_tests_own() -> Iterator[None]:
    """The address of a real bucket is for one file of tests, and no setting of a sidecar."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("BUILDSVC_TEST_OSS_URL", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _grpc_stays() -> Iterator[None]:
    """gRPC ends its thread, and waits for that, with the last channel: in any later test."""
    grpc.aio.init_grpc_aio()
    yield
    grpc.aio.shutdown_grpc_aio()


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a child process, or a task in its event loop, behind."""
    before = _children()
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_no_task_left")
        if request.path.is_relative_to(_UNIT):
            request.getfixturevalue("_nothing_blocks")
    yield
    left = {pid: line for pid, line in _children().items() if pid not in before}
    assert not left, f"child processes left behind: {left}"


@pytest_asyncio.fixture
async def _no_task_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    current = asyncio.current_task()
    left = {task for task in asyncio.all_tasks() - before - {current} if not _is_servers(task)}
    if left:
        _, left = await asyncio.wait(left, timeout=_ENDING)
    assert not left, f"tasks left behind: {left}"


def _is_servers(task: asyncio.Task[object]) -> bool:
    """Whether it is a connection of a test's aiohttp server, which ends after the server."""
    return getattr(task.get_coro(), "__qualname__", "").startswith("RequestHandler.")


@pytest.fixture
def _nothing_blocks() -> Iterator[None]:
    """Raise BlockingError where our code blocks the event loop."""
    # buildsvc.cache computes; it is for its callers to call it in a thread.
    with blockbuster_ctx(["buildsvc.store", "buildsvc.webhook", "sidecar"]) as watched:
        allow_harmless(watched)
        yield


def allow_harmless(watched: BlockBuster) -> None:
    """Let pass what is not worth a thread."""
    for call, file, function in _HARMLESS:
        if call in watched.functions:
            watched.functions[call].can_block_in(file, function)


def _children() -> dict[int, str]:
    """Return the command lines of this process' children by their pids."""
    found: dict[int, str] = {}
    for task in Path("/proc/self/task").glob("*/children"):
        # A thread may end meanwhile, and so may a child.
        with suppress(OSError):
            for pid in map(int, task.read_text().split()):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                # Python's own, one for the whole session.
                if "multiprocessing.resource_tracker" not in line:
                    found[pid] = line
    return found
