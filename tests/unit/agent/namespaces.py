"""Code that is run in namespaces of its own, where this machine allows that."""

from __future__ import annotations

import ctypes
import os
import traceback
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
_NOT_HERE = 77


def run_in(namespaces: int, check: Callable[[], None]) -> None:
    """Runs it in a child with new namespaces of these kinds; the test fails with it."""
    if (pid := os.fork()) == 0:
        status = 1
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(namespaces) != 0:
                status = _NOT_HERE
            else:
                check()
                status = 0
        except BaseException:  # noqa: BLE001 - a child must not go on as a second test run
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == _NOT_HERE:
        pytest.skip("user namespaces cannot be made here")
    assert status == 0
