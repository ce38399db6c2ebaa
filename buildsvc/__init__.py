"""buildsvc: image builds in fresh pods at the speed of a warm daemon."""

from buildsvc._version import __version__

__all__ = ["__version__"]
