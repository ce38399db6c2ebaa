"""The last lines of the step: what was built, how long it took, and what the cache did for it."""

from __future__ import annotations

from buildsvc.amounts import shown_bytes
from buildsvc.imagebuild.results import Result
from buildsvc.imagebuild.sidecarstatus import Seen


def saved_seconds(seconds: float, seen: Seen | None) -> float | None:
    """Return what the cache has saved against the last cold build of its key.

    None where nobody knows how long that took, and where nothing was saved.
    """
    cold = seen.cold_build_seconds if seen else 0.0
    return cold - seconds if cold > seconds else None


def summary(result: Result, seen: Seen | None) -> list[str]:
    """Return the lines; what is not known is left out."""
    state = "in the registry" if result.verified else "pushed, and not checked"
    lines = [f"{name}@{result.digest} is {state}" for name in result.references if result.pushed]
    if not result.pushed and result.digest:
        lines.append(f"the image is {result.digest}; it was not pushed")
    text = f"{result.seconds:.1f} s"
    if result.steps_total:
        text += f", {result.steps_cached} of {result.steps_total} steps cached"
    if seen is not None and result.saved_seconds is not None:
        text += f"; the last cold build of this cache took {seen.cold_build_seconds:.0f} s: "
        text += f"{result.saved_seconds:.0f} s saved"
    if result.attempts > 1:
        text += f"; the build ran {result.attempts} times, because the cache was lost"
    lines.append(text)
    if seen is not None and seen.objects.get("total"):
        lines.append(
            f"fetched {seen.objects['fetched']} of {seen.objects['total']} objects of the cache, "
            f"{shown_bytes(seen.fetched_bytes)}: {seen.objects['demand']} on demand, "
            f"{seen.objects['prefetch']} in time"
        )
    return lines
