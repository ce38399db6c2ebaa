"""The settings of a log, for the settings of whatever writes one."""

from __future__ import annotations

from typing import Any, Literal, get_args

from buildsvc.setting import setting
from buildsvc.values import one_of

LogFormat = Literal["auto", "human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


def format_setting(group: str) -> Any:  # noqa: ANN401  as field
    """Return the field of a LogFormat."""
    allowed = get_args(LogFormat)
    text = "auto: human on a terminal, else JSON."
    return setting(one_of(*allowed), "auto", text, "|".join(allowed), group)


def level_setting(group: str) -> Any:  # noqa: ANN401  as field
    """Return the field of a LogLevel."""
    text = "Least severe that is logged."
    return setting(one_of(*get_args(LogLevel)), "info", text, "LEVEL", group)
