"""How the guard starts a program and finds its descendants. Standard library only, and little."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
FIRST_FD = 3
"""Where buildkitd finds the listening socket (sd_listen_fds(3)), and the agent its channel."""

_GO, _NOTE, _ERROR = b"G", b"N", b"E"


def prctl(option: int, value: int) -> None:
    """Calls the system call of this name with one argument. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def children(parent: int) -> list[int]:
    """Pids of the direct children, zombies too.

    A child that is not reaped is in every reading, and so is the child above a grandchild: whoever
    kills what this answers until it answers nothing has left no descendant alive.
    """
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The command may hold blanks and parentheses; state and parent follow the last.
                    fields = file.read().rpartition(b")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == parent:
                found.append(int(name))
    return found


class Child:
    """A program that is forked, told to go on, and then either runs or is reported as failed.

    `nofile` is the descriptor limit that it gets, `output` its stdout and stderr if not empty.
    """

    def __init__(
        self, argv: list[str], env: dict[str, str], nofile: tuple[int, int], output: list[int]
    ) -> None:
        if not argv:
            raise ValueError("argv is empty")
        self._argv = argv
        self._env = env
        self._nofile = nofile
        self._output = output
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fork(
        self,
        first: int | None,
        *,
        keep: list[int] | None = None,
        daemon: bool = False,
        nofsync: bool = False,
    ) -> int:
        """Forks; the child waits for `go`. `first` becomes its descriptor 3; `keep` stay open."""
        pid = os.fork()
        if pid == 0:
            try:
                self._become(first, keep or [], daemon=daemon, nofsync=nofsync)
            except Exception as error:  # noqa: BLE001 - goes to the parent, which raises it
                self._theirs.send(_ERROR + str(error).encode())
            finally:
                os._exit(127)
        self._theirs.close()
        return pid

    def go(self) -> str:
        """Lets the child execute its program. Answers its note; raises OSError if it cannot."""
        note = ""
        with self._ours:
            self._ours.send(_GO)
            # The end comes with the exec, which closes the child's copy.
            while answer := self._ours.recv(4096):
                text = answer[1:].decode(errors="replace")
                if answer[:1] == _ERROR:
                    raise OSError(f"cannot run {self._argv[0]}: {text}")
                note = text
        return note

    def close(self) -> None:
        """Without `go`: the child ends."""
        self._ours.close()

    def _become(self, first: int | None, keep: list[int], *, daemon: bool, nofsync: bool) -> None:
        self._ours.close()
        if daemon:
            # Second line, should the guard itself be killed. Set before `go` is read: a guard
            # that died earlier has closed the socket, one that dies later is noticed.
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if self._theirs.recv(1) != _GO:
            os._exit(127)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            # Python ignores these two, and what is ignored stays so across exec.
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        resource.setrlimit(resource.RLIMIT_NOFILE, self._nofile)
        if self._output:
            os.dup2(self._output[0], 1)
            os.dup2(self._output[0], 2)
        for descriptor in keep:
            fcntl.fcntl(descriptor, fcntl.F_SETFD, 0)
        if first is not None:
            if self._theirs.fileno() == FIRST_FD:
                self._theirs = socket.socket(fileno=os.dup(FIRST_FD))
            os.dup2(first, FIRST_FD)
            fcntl.fcntl(FIRST_FD, fcntl.F_SETFD, 0)  # dup2 does not where `first` is 3
        if daemon and first is not None:
            self._env.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        if nofsync:
            self._theirs.send(_NOTE + _without_fsync().encode())
        os.execvpe(self._argv[0], self._argv, self._env)  # noqa: S606 - a shell has no place here


def _without_fsync() -> str:
    """Installs the filter in this process; says why not, since a build can do without."""
    from sidecar.agent import nofsync

    try:
        nofsync.install()
    except OSError as error:
        return str(error)
    return ""
