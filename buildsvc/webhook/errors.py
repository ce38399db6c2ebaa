"""Why a pod is left as it is."""

from __future__ import annotations


class NotInjected(Exception):
    """The sidecar cannot be put into this pod as it is; the text is for the pod's author."""
