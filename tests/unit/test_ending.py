"""A process that has done its work ends, whatever threads of libraries still do."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import atexit, sys
from buildsvc.ending import end

class Late:
    def __del__(self):
        print("torn down", flush=True)

def main():
    atexit.register(print, "exit function")
    sys.stdout.write("work ")
    sys.stderr.write("complaint")
    return 7

late = Late()
end(main)
"""


def test_everything_is_written_and_nothing_torn_down() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7
    assert done.stdout == "work exit function\n"
    assert done.stderr == "complaint"


def test_an_error_of_the_program_is_pythons_to_tell() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from buildsvc.ending import end; end(lambda: 1 // 0)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
