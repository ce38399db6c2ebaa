"""The build step that pyproject.toml cannot state: ``buildsvc._proto`` is made of ``proto/``."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_TREE = Path(__file__).resolve().parent
sys.path.insert(0, str(_TREE / "tools"))

from protogen import generate  # noqa: E402 - found through the line above


class _BuildWithProto(build_py):
    def run(self) -> None:
        super().run()
        # Straight into the wheel's tree: the sources stay as they are.
        generate(_TREE / "proto", Path(self.build_lib, "buildsvc", "_proto"))


setup(cmdclass={"build_py": _BuildWithProto})
