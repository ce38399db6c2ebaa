"""The versions that belong together."""

from __future__ import annotations

from buildsvc import __version__

BUILDKIT_VERSION = "v0.33.1"
"""The buildkitd that this sidecar is made for; tools/buildkit/go.mod builds it."""

CACHE_FORMAT_VERSION = 1
"""``format_version`` of the heads and roots that are written (proto/buildsvc/cache)."""


def version_text() -> str:
    """Return what ``--version`` prints."""
    return (
        f"sidecar {__version__}\nbuildkitd {BUILDKIT_VERSION}\ncache format {CACHE_FORMAT_VERSION}"
    )
