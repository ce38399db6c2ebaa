"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ok; warn: builds work, with less than there could be; fail: no build can run.
State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """``check`` is its name, ``seen`` what was found; ``advice`` what to change, "" for nothing."""

    check: str
    state: State
    seen: str
    advice: str = ""
