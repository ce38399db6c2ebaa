"""The projects of this repository that are measured, and what changes in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perf.ballast import BALLAST, Ballast
from perf.change import Change, FirstInstruction, Line, Nothing, Release
from perf.host import REPOSITORY

SAMPLE = REPOSITORY / "perf" / "sample"
_OTHERS = REPOSITORY / "perf" / "scenarios"


@dataclass(frozen=True)
class Scenario:
    """A project of this repository.

    ``changes`` by name; ``bases`` are the kinds of its base images (tools/base-image.sh), each by
    the build argument that names the image; ``targets`` are the Dockerfile's where it makes
    several images; ``shared`` are files of other directories that belong to its context;
    ``ballast`` is what the first build makes beside the image; ``large_layers``: more of them than
    a builder that compresses layers in memory has room for.
    """

    source: Path
    changes: Mapping[str, Change]
    bases: Mapping[str, str] = field(default_factory=lambda: {"BASE": "debian"})
    targets: tuple[str, ...] = ()
    shared: tuple[Path, ...] = ()
    ballast: Ballast | None = None
    large_layers: bool = False


def _changes(line: Line, dependency: Change) -> dict[str, Change]:
    return {
        "line": line,
        "dependency": dependency,
        "dockerfile": FirstInstruction(),
        "nothing": Nothing(),
        # What changes is the image that `Project.rebase` is given.
        "base": Nothing(),
    }


def _locked(file: str, package: str) -> Line:
    """The entry of a package in pip-compile's lock."""
    return Line(
        file,
        rf"^{package}==\S+(?: \\\n +--hash=\S+)+$",
        f"{package}=={{version}} \\\n    --hash=sha256:{{sha256}}",
    )


_TOOLCHAIN = "BASE"
_RUNTIME = {"RUNTIME": "debian"}
_REVISION = (r"^static const int revision = .*$", "static const int revision = {};")
_SAMPLE_LINE = Line("src/main.c", *_REVISION)
_CHI = "github.com/go-chi/chi/v5"

#: What `perf.bench` measures.
_BENCH = {
    "sample": Scenario(SAMPLE, {"line": _SAMPLE_LINE}),
    "smallfiles": Scenario(
        _OTHERS / "smallfiles", {"line": Line("app/version", r"^revision .*$", "revision {}")}
    ),
    "large": Scenario(
        _OTHERS / "large",
        {"line": Line("src/revision.h", r"^#define REVISION .*$", "#define REVISION {}")},
        # The same Python environment, locked once.
        shared=(SAMPLE / "requirements.txt",),
    ),
}

#: The comparison's: each with the same five changes.
COMPARED = {
    "python": Scenario(
        SAMPLE,
        _changes(_SAMPLE_LINE, Release("python", (_locked("requirements.txt", "tzdata"),))),
    ),
    "go": Scenario(
        _OTHERS / "go",
        _changes(
            Line("internal/version/version.go", r"^const Revision = .*$", "const Revision = {}"),
            Release(
                "go",
                (
                    Line("go.mod", rf"^\t{_CHI} v\S+$", f"\t{_CHI} v{{version}}"),
                    Line("go.sum", rf"^{_CHI} v[\d.]+ \S+$", f"{_CHI} v{{version}} {{sum}}"),
                    Line(
                        "go.sum",
                        rf"^{_CHI} v[\d.]+/go\.mod \S+$",
                        f"{_CHI} v{{version}}/go.mod {{mod_sum}}",
                    ),
                ),
            ),
        ),
        {_TOOLCHAIN: "golang", **_RUNTIME},
    ),
    "node": Scenario(
        _OTHERS / "node",
        _changes(
            Line("src/revision.ts", r"^export const REVISION = .*$", "export const REVISION = {};"),
            Release(
                "node",
                (
                    Line("package.json", r'^    "marked": ".*",$', '    "marked": "{version}",'),
                    Line(
                        "package-lock.json",
                        r'^        "marked": ".*",$',
                        '        "marked": "{version}",',
                    ),
                    Line(
                        "package-lock.json",
                        r'^    "node_modules/marked": \{\n +"version": .*\n +"integrity": .*$',
                        '    "node_modules/marked": {{\n'
                        '      "version": "{version}",\n'
                        '      "integrity": "{integrity}",',
                    ),
                ),
            ),
        ),
        {_TOOLCHAIN: "node", **_RUNTIME},
    ),
    "java": Scenario(
        _OTHERS / "java",
        _changes(
            Line(
                "src/main/java/invalid/example/inventory/Revision.java",
                r"^    static final int NUMBER = .*$",
                "    static final int NUMBER = {};",
            ),
            Release(
                "java",
                (
                    Line(
                        "pom.xml",
                        r"<jsoup\.version>.*</jsoup\.version>",
                        "<jsoup.version>{version}</jsoup.version>",
                    ),
                ),
            ),
        ),
        {_TOOLCHAIN: "maven", **_RUNTIME},
    ),
    "monorepo": Scenario(
        _OTHERS / "monorepo",
        _changes(
            Line("services/orders/main.go", r"^const revision = .*$", "const revision = {}"),
            Release("monorepo", (_locked("requirements.txt", "certifi"),)),
        ),
        {_TOOLCHAIN: "golang", **_RUNTIME},
        targets=(
            *("gateway", "catalog", "orders", "payments", "stock"),
            *("reports", "search", "invoices", "mailer", "recommendations"),
        ),
    ),
    "manyfiles": Scenario(
        _OTHERS / "manyfiles",
        _changes(
            Line("app/version", r"^revision .*$", "revision {}"),
            Line("packages.txt", r"^string-width .*$", "string-width 6.{}.0"),
        ),
        large_layers=True,
    ),
}

#: A build that stays the same while the cache grows.
_SIZES = {
    name: Scenario(
        _OTHERS / "ballast",
        {"line": Line("main.c", *_REVISION)},
        ballast=ballast,
    )
    for name, ballast in BALLAST.items()
}

SCENARIOS: Mapping[str, Scenario] = {**_BENCH, **COMPARED, **_SIZES}
