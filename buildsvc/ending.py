"""How our processes end: without tearing the interpreter down."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def end(main: Callable[[], int]) -> NoReturn:
    """Run a program and end the process with its exit code, as ``sys.exit`` but for the teardown.

    Threads of a library in Rust, as that of S3 stores is, may still hand over what nobody waits for
    any more. One that asks for the interpreter while it is torn down ends the process with SIGABRT
    (PyO3/pyo3-async-runtimes issue 40), after all its work was done.
    """
    code = main()
    atexit._run_exitfuncs()  # noqa: SLF001 - as multiprocessing does in its children
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
