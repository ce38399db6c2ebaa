"""Lists the packages of an image's file system as SPDX, for BuildKit.

BuildKit runs it with the file system mounted, as docs/attestations/sbom-protocol.md of its source
says. Known are Debian's packages (``var/lib/dpkg/status``, and ``status.d`` of distroless images)
and Python's (``*.dist-info/METADATA``), read as data: nothing of the image is executed.
The result is SPDX 2.3 (https://spdx.github.io/spdx-spec/v2.3/) and depends on the files alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

#: A metadata file of more bytes is not one.
_LARGEST = 64 << 20


class Package(NamedTuple):
    """What is known of an installed package; ``kind`` is its type in a package URL."""

    kind: str
    name: str
    version: str
    qualifiers: str = ""

    @property
    def url(self) -> str:
        """The package URL: https://github.com/package-url/purl-spec."""
        name = quote(self.name, safe="/")
        return f"pkg:{self.kind}/{name}@{quote(self.version)}{self.qualifiers}"


def debian(root: Path) -> Iterator[Package]:
    """Yield what dpkg has installed below a root."""
    for file in (root / "var/lib/dpkg/status", *sorted((root / "var/lib/dpkg/status.d").glob("*"))):
        for paragraph in re.split(r"\n\s*\n", _text(root, file)):
            fields = HeaderParser().parsestr(paragraph.lstrip("\n"))
            name, version = fields.get("Package"), fields.get("Version")
            # A package that was removed leaves its paragraph; files of distroless have no Status.
            if name and version and fields.get("Status", "installed").endswith("installed"):
                architecture = quote(fields.get("Architecture", "all"))
                yield Package("deb", f"debian/{name}", version, f"?arch={architecture}")


def python(root: Path) -> Iterator[Package]:
    """Yield Python's packages, wherever they are below a root."""
    for directory, names, _ in os.walk(root):
        names.sort()
        for name in names:
            if name.endswith(".dist-info"):
                fields = HeaderParser().parsestr(_text(root, Path(directory, name, "METADATA")))
                if fields.get("Name") and fields.get("Version"):
                    normal = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
                    yield Package("pypi", normal, fields["Version"])


def _text(root: Path, file: Path) -> str:
    """Return a file's text; empty for one that is absent, huge, or elsewhere by a link."""
    inside = file.resolve().is_relative_to(root.resolve())
    if not inside or not file.is_file() or file.stat().st_size > _LARGEST:
        return ""
    return file.read_text(errors="replace")


def document(name: str, packages: list[Package], created: str) -> dict[str, object]:
    """Return the SPDX document."""
    found = sorted(set(packages))
    digest = hashlib.sha256("\n".join(package.url for package in found).encode()).hexdigest()
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://buildsvc.invalid/spdx/{name}-{digest}",
        "creationInfo": {"created": created, "creators": ["Tool: buildsvc-scanner"]},
        "packages": [
            {
                "SPDXID": f"SPDXRef-{number}",
                "name": package.name.rpartition("/")[2],
                "versionInfo": package.version,
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "externalRefs": [
                    {
                        "referenceCategory": "PACKAGE-MANAGER",
                        "referenceType": "purl",
                        "referenceLocator": package.url,
                    }
                ],
            }
            for number, package in enumerate(found)
        ],
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": f"SPDXRef-{number}",
            }
            for number in range(len(found))
        ],
    }


def main() -> int:
    """Scan every file system that BuildKit names. Return an exit code."""
    try:
        target = Path(os.environ["BUILDKIT_SCAN_DESTINATION"])
        roots = [Path(os.environ["BUILDKIT_SCAN_SOURCE"])]
    except KeyError as missing:
        print(f"scanner: {missing.args[0]} is not set; BuildKit runs this program", file=sys.stderr)
        return 64
    extras = Path(os.environ.get("BUILDKIT_SCAN_SOURCE_EXTRAS") or "/nonexistent")
    if extras.is_dir():
        roots += sorted(extras.iterdir())
    # The same file system has the same document, whenever it is scanned.
    created = datetime.fromtimestamp(0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for root in roots:
        packages = [*debian(root), *python(root)]
        statement = {
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://spdx.dev/Document",
            "predicate": document(root.name, packages, created),
        }
        file = target / f"{root.name}.spdx.json"
        file.write_text(json.dumps(statement, indent=1) + "\n")
        print(f"scanner: {root.name}: {len(set(packages))} packages", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
