"""Compiles every file below ``proto/`` into the package ``buildsvc._proto``.

protoc derives Python module names from the path of a .proto file, and that path must stay what it
is in the real API, because other files import it by that name. So the output is moved below
``buildsvc._proto`` and its imports are rewritten. Package names on the wire stay as they are.
Both the checkout (``make proto``) and the wheel build (``setup.py``) come through here.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

_TREE = Path(__file__).resolve().parent.parent
_PACKAGE = "buildsvc._proto"
_GOOGLE_TYPES = Path(protoc.__file__).parent / "_proto"


def generate(proto_root: Path, output: Path) -> None:
    """Writes the modules for all of ``proto_root`` to ``output``, replacing what is there.

    Raises:
        RuntimeError: protoc rejected a file; its message is on stderr.
    """
    sources = sorted(
        path.relative_to(proto_root).as_posix() for path in proto_root.rglob("*.proto")
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the move below is a rename.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix="_proto.") as scratch:
        part = Path(scratch, "new")
        part.mkdir()
        _compile(proto_root, sources, part)
        names = sorted({Path(source).parts[0] for source in sources})
        for module in [*part.rglob("*.py"), *part.rglob("*.pyi")]:
            module.write_text(
                _rewrite_imports(module.read_text(encoding="utf-8"), names), encoding="utf-8"
            )
        for directory in [part, *(path for path in part.rglob("*") if path.is_dir())]:
            (directory / "__init__.py").touch()
        part.chmod(0o755)
        if output.exists():
            output.rename(Path(scratch, "old"))
        part.rename(output)


def _compile(proto_root: Path, sources: list[str], output: Path) -> None:
    plugin = shutil.which("protoc-gen-mypy", path=str(Path(sys.executable).parent))
    grpc_plugin = shutil.which("protoc-gen-mypy_grpc", path=str(Path(sys.executable).parent))
    if plugin is None or grpc_plugin is None:
        raise RuntimeError("protoc-gen-mypy is missing beside this Python; install mypy-protobuf")
    common = [
        "protoc",
        f"--plugin=protoc-gen-mypy={plugin}",
        f"--plugin=protoc-gen-mypy_grpc={grpc_plugin}",
        f"--proto_path={proto_root}",
        f"--proto_path={_GOOGLE_TYPES}",
    ]
    messages = [f"--python_out={output}", f"--mypy_out=quiet:{output}"]
    calls = [f"--grpc_python_out={output}", f"--mypy_grpc_out=quiet:{output}"]
    services = [source for source in sources if _declares_service(proto_root / source)]
    if protoc.main([*common, *messages, *sources]) or protoc.main([*common, *calls, *services]):
        raise RuntimeError(f"protoc rejected a file below {proto_root}")


def _declares_service(source: Path) -> bool:
    return re.search(r"^service\s", source.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _rewrite_imports(source: str, names: list[str]) -> str:
    """Moves imports of, and references to, our own top-level names below ``buildsvc._proto``."""
    name = "(?:" + "|".join(map(re.escape, names)) + r")(?=[.\s])"
    source = re.sub(rf"^(\s*from )({name})", rf"\1{_PACKAGE}.\2", source, flags=re.MULTILINE)
    return re.sub(rf"^(\s*import )({name})", rf"\1{_PACKAGE}.\2", source, flags=re.MULTILINE)


if __name__ == "__main__":
    generate(_TREE / "proto", _TREE / "buildsvc" / "_proto")
