"""The guard: parent of the agent and of buildkitd, and keeper of copies of the agent's leases.

A lease belongs to an open file description, and the kernel closes a dead process's files before
it tells anybody of the death. Without another holder, an opener blocked on a blob whose bytes are
still missing would go on and read zeros when the agent dies. The guard holds a copy of every
leased descriptor; on the agent's death it kills buildkitd, waits until nothing of it is left, and
only then ends, and the leases with it.

It speaks JSON over two AF_UNIX SOCK_SEQPACKET sockets, one message a packet. With the sidecar:

    {"op": "start-agent", "argv": [...], "env": {...}}      a descriptor may come with these two:
    {"op": "start-daemon", "argv": [...], "env": {...}, "seccomp_nofsync": true}    stdout, stderr
    {"op": "stop-daemon", "grace": seconds}
    {"op": "end-strays"}                 kills what RUN steps left running
    {"event": "ready", "pid": n}
    {"event": "agent-started", "pid": n}    {"event": "agent-exited", "status": n}
    {"event": "daemon-started", "pid": n, "nofsync": ""}    {"event": "daemon-exited", "status": n}
    {"event": "strays-ended", "count": n}
    {"event": "failed", "op": "...", "message": "..."}

`nofsync` says why the filter of `nofsync.py` is not there, if it is not. A status is negative for
a signal, as in `subprocess`. With the agent, whose command line gets `--guard-fd 3`:

    {"op": "hold", "ids": [...]} with as many descriptors    {"op": "drop", "ids": [...]}
    {"event": "daemon-started", "pid": n} with the daemon's pidfd, before it runs

Exit status: 0 when the sidecar is gone or a signal asked for it, 3 when the agent died, 4 for a
broken protocol, 5 when an address could not be made unreachable.
It must stay small and must not fail: nothing but the standard library, no threads, one loop.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import sys
import time

from sidecar.agent import packets, spawn
from sidecar.agent.children import Children, Signals
from sidecar.agent.fields import ProtocolError, environment, numbers, strings

LISTEN_FD, CONTROL_FD, LOCK_FD = 30, 31, 32
EXIT_AGENT_DIED, EXIT_PROTOCOL, EXIT_ROUTES = 3, 4, 5


class Guard:
    """One guard process. `run` returns its exit status."""

    def __init__(self, control: int, listener: int | None, lock: int | None) -> None:
        self._control = socket.socket(fileno=control)
        self._listener = listener
        self._lock = lock
        self._channel: socket.socket | None = None
        self._signals = Signals()
        self._children = Children(self._signals)
        self._kill_at: float | None = None
        self._held: dict[int, int] = {}
        self._exit: int | None = None
        self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._poll = select.poll()

    def run(self) -> int:
        """Returns when it is all over and no process of the daemon or the agent is left."""
        self._prepare()
        self._tell({"event": "ready", "pid": os.getpid()})
        try:
            while self._exit is None:
                wait = None
                if self._kill_at is not None:
                    wait = max(0.0, self._kill_at - time.monotonic())
                self._wait(wait)
                self._children.reap()
                self._after_deaths()
        except (OSError, ValueError, KeyError, ProtocolError, packets.PacketError) as error:
            os.write(2, f"guard: {error!r}\n".encode())
            self._exit = EXIT_PROTOCOL
        finally:
            self._end_daemon()
            if (status := self._children.end_agent()) is not None:
                self._tell({"event": "agent-exited", "status": status})
        return self._exit

    def _prepare(self) -> None:
        """Signals go to the loop, buildkitd's orphans to us; rootlesskit's death asks to end."""
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}"):
                fcntl.fcntl(int(name), fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._nofile[1], self._nofile[1]))
        self._signals.handle(self._asked_to_end)
        spawn.prctl(spawn.PR_SET_PDEATHSIG, signal.SIGTERM)
        spawn.prctl(spawn.PR_SET_CHILD_SUBREAPER, 1)
        self._poll.register(self._signals, select.POLLIN)
        self._poll.register(self._control, select.POLLIN)

    def _asked_to_end(self, *_: object) -> None:
        if self._exit is None:
            self._exit = 0

    # What arrives.

    def _wait(self, seconds: float | None) -> None:
        """Waits for signals and messages, and handles these."""
        for descriptor, _ in self._poll.poll(None if seconds is None else seconds * 1000):
            if descriptor == self._signals.fileno():
                self._signals.drain()
            elif descriptor == self._control.fileno():
                self._control_ready()
            elif self._channel is not None and descriptor == self._channel.fileno():
                self._channel_ready(self._channel)

    def _control_ready(self) -> None:
        received = packets.receive(self._control)
        if received is None:
            self._asked_to_end()
            return
        message, descriptors = received
        try:
            self._obey(message, descriptors)
        except (OSError, ProtocolError) as error:
            self._tell({"event": "failed", "op": message.get("op"), "message": str(error)})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _obey(self, message: packets.Message, descriptors: list[int]) -> None:
        operation = message.get("op")
        if operation == "start-agent":
            self._start_agent(message, descriptors)
        elif operation == "start-daemon":
            self._start_daemon(message, descriptors)
        elif operation == "stop-daemon":
            self._stop_daemon(message)
        elif operation == "end-strays":
            count = self._children.kill_strays(self._children.agent, self._children.daemon)
            self._tell({"event": "strays-ended", "count": count})
        else:
            raise ProtocolError("unknown operation")

    def _channel_ready(self, channel: socket.socket) -> None:
        received = packets.receive(channel)
        if received is None:
            # The agent has let go of its end. Its death, if it is one, is told by SIGCHLD; without
            # the channel its leases have no keeper, so it must not live on either.
            self._poll.unregister(channel)
            assert self._children.agent is not None
            os.kill(self._children.agent, signal.SIGKILL)
            return
        message, descriptors = received
        identifiers = numbers(message.get("ids"))
        if message.get("op") == "hold":
            self._held.update(zip(identifiers, descriptors, strict=True))
        else:
            for identifier in identifiers:
                os.close(self._held.pop(identifier))

    def _tell(self, event: packets.Message) -> None:
        try:
            packets.send(self._control, event, [], socket.MSG_DONTWAIT)
        except OSError:
            # Gone, or no longer reading, which is the same to us.
            self._asked_to_end()

    # What is started and ended.

    def _start_agent(self, message: packets.Message, descriptors: list[int]) -> None:
        if self._children.agent is not None:
            raise ProtocolError("the agent runs already")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [*strings(message.get("argv")), "--guard-fd", str(spawn.FIRST_FD)]
        # The agent keeps the root's lock too: it may outlive the guard for a moment.
        keep = [] if self._lock is None else [self._lock]
        with theirs:
            child = spawn.Child(argv, environment(message.get("env")), self._nofile, descriptors)
            pid = child.fork(theirs.fileno(), keep=keep)
        try:
            child.go()
        except BaseException:
            ours.close()
            os.waitpid(pid, 0)
            raise
        self._children.agent = pid
        self._channel = ours
        self._poll.register(ours, select.POLLIN)
        self._tell({"event": "agent-started", "pid": pid})

    def _start_daemon(self, message: packets.Message, descriptors: list[int]) -> None:
        if self._children.daemon is not None:
            raise ProtocolError("the daemon runs already")
        child = spawn.Child(
            strings(message.get("argv")),
            environment(message.get("env")),
            self._nofile,
            descriptors,
        )
        pid = child.fork(
            self._listener, daemon=True, nofsync=message.get("seccomp_nofsync") is True
        )
        try:
            self._hand_over(pid)
            note = child.go()
        except BaseException:
            child.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._children.daemon = pid
        self._kill_at = None
        self._tell({"event": "daemon-started", "pid": pid, "nofsync": note})

    def _hand_over(self, pid: int) -> None:
        """Gives the agent what it needs to end the daemon if the guard dies."""
        if self._channel is None:
            return
        pidfd = os.pidfd_open(pid)
        try:
            event: packets.Message = {"event": "daemon-started", "pid": pid}
            packets.send(self._channel, event, [pidfd], socket.MSG_DONTWAIT)
        finally:
            os.close(pidfd)

    def _stop_daemon(self, message: packets.Message) -> None:
        grace = message.get("grace")
        if not isinstance(grace, int | float):
            raise ProtocolError("grace: expected seconds")
        if (daemon := self._children.daemon) is None:
            raise ProtocolError("no daemon runs")
        self._kill_at = time.monotonic() + grace
        if grace > 0:
            os.kill(daemon, signal.SIGTERM)
            # A paused daemon would not see it.
            os.kill(daemon, signal.SIGCONT)

    def _after_deaths(self) -> None:
        """Draws the conclusions: what ends the daemon, and what ends the guard."""
        if self._children.agent_ended and self._exit is None:
            self._exit = EXIT_AGENT_DIED
        overdue = self._kill_at is not None and time.monotonic() >= self._kill_at
        if self._exit is None and (overdue or self._children.daemon_ended):
            self._end_daemon()

    def _end_daemon(self) -> None:
        """Ends it while the leases are still held here: an opener that waits dies waiting."""
        status = self._children.end_daemon()
        self._kill_at = None
        if status is not None:
            self._tell({"event": "daemon-exited", "status": status})


def _deny(cidrs: list[str]) -> None:
    """Makes addresses unreachable, in a child: the guard does not keep the code in memory."""
    pid = os.fork()
    if pid == 0:
        status = EXIT_ROUTES
        try:
            from sidecar.agent import routes

            routes.deny(cidrs)
            status = 0
        except (OSError, ValueError) as error:
            os.write(2, f"guard: addresses to deny: {error}\n".encode())
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1] != 0:
        raise SystemExit(EXIT_ROUTES)


def main(arguments: list[str] | None = None) -> int:
    """`guard [--control-fd N] [--listen-fd N] [--lock-fd N] [--deny CIDR]…`

    The listener and the lock are left out where their descriptors are not open.
    """
    words = sys.argv[1:] if arguments is None else arguments
    numbers = {"--control-fd": CONTROL_FD, "--listen-fd": LISTEN_FD, "--lock-fd": LOCK_FD}
    denied: list[str] = []
    if len(words) % 2:
        raise SystemExit("guard: every option takes a value")
    for option, value in zip(words[::2], words[1::2], strict=True):
        if option == "--deny":
            denied.append(value)
        elif option in numbers:
            numbers[option] = int(value)
        else:
            raise SystemExit(f"guard: unknown option {option}")
    if denied:
        _deny(denied)
    given = [
        number if os.path.exists(f"/proc/self/fd/{number}") else None for number in numbers.values()
    ]
    if given[0] is None:
        raise SystemExit(f"guard: descriptor {numbers['--control-fd']} is not open")
    return Guard(given[0], given[1], given[2]).run()


if __name__ == "__main__":
    sys.exit(main())
