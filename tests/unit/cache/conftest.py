"""Hypothesis for a tree that may be read-only and a machine that may be busy."""

from __future__ import annotations

from hypothesis import settings

# The default database lies in the source tree, which may belong to another user.
settings.register_profile("buildsvc", database=None, deadline=None)
settings.load_profile("buildsvc")
