"""What all our commands have in common: flags of settings, usage errors as ours, and errors as
people read them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from buildsvc.errors import BuildsvcError, UsageError
from buildsvc.setting import Setting, flag_name

EX_IOERR = 74
EX_INTERRUPTED = 130

#: What a text of ours goes through before people see it.
Shown = Callable[[str], str]


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """See ``argparse.ArgumentParser.error``."""
        raise UsageError(message, advice=f"{self.prog} --help")


def report(program: str, error: BuildsvcError, shown: Shown = str) -> int:
    """Print an error for people on standard error, after ``program``, and return its exit code."""
    sys.stderr.write(f"{program}: error: {shown(error_lines(error))}\n")
    return error.exit_code


def exit_code(program: str, command: Callable[[], int], shown: Shown = str) -> int:
    """Run a command and return its exit code; errors go through ``shown`` to :func:`report`."""
    try:
        code = command()
        # Here, so that a reader that has left is noticed below and not at exit.
        sys.stdout.flush()
    except BuildsvcError as error:
        return report(program, error, shown)
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough, as in `status | head`. Nothing must be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_IOERR
    else:
        return code


def error_lines(error: BuildsvcError) -> str:
    """The error with what was expected, found and advised on lines of their own."""
    text = str(error)
    for part in ("expected", "found", "what to do"):
        text = text.replace(f"; {part}: ", f"\n  {part}: ")
    return text


def add_settings(parser: argparse.ArgumentParser, settings: Mapping[str, Setting]) -> None:
    """Add a flag for each setting, in groups; what is not given is not in the namespace."""
    adders: dict[str, Callable[..., object]] = {}
    for name, setting in settings.items():
        if setting.group not in adders:
            adders[setting.group] = parser.add_argument_group(setting.group).add_argument
        _add_setting(adders[setting.group], name, setting)


def _add_setting(add: Callable[..., object], name: str, setting: Setting) -> None:
    text = setting.text.replace("%", "%%")
    if setting.default not in (None, "", ()) and "Default:" not in text:
        text += f" Default: {setting.default}."
    options: dict[str, Any] = {
        "metavar": setting.metavar,
        "help": text,
        "default": argparse.SUPPRESS,
    }
    if setting.metavar == "on|off":
        # The bare flag switches on.
        options |= {"nargs": "?", "const": "on"}
    elif setting.default == ():
        options["action"] = "append"
    add(flag_name(name), dest=name, **options)
