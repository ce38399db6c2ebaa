"""The images themselves, as the registry has them."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from perf.host import REPOSITORY
from tests.cluster.machinery import Registry

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

#: Compressed bytes of all layers of an image, at most: what a node pulls. Measured, and a tenth.
_LARGEST = {"sidecar": 148e6, "step": 74e6, "service": 118e6, "scanner": 63e6}


def _parts(registry: Registry, name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return an image's manifest, and that of its attestations if it has any."""
    repository = f"buildsvc-{name}"
    found = registry.json(repository, f"manifests/{registry.tag}")
    if "manifests" not in found:
        return found, None
    image, attestations = (
        registry.json(repository, f"manifests/{one['digest']}") for one in found["manifests"]
    )
    return image, attestations


@pytest.mark.parametrize("name", sorted(_LARGEST))
def test_an_image_is_small_and_says_what_it_is(registry: Registry, name: str) -> None:
    """Labels of the OCI, and, but for what scans, a user who is not root."""
    manifest, _ = _parts(registry, name)
    assert sum(layer["size"] for layer in manifest["layers"]) < _LARGEST[name]
    config = registry.json(f"buildsvc-{name}", f"blobs/{manifest['config']['digest']}")["config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"buildsvc-{name}"
    assert labels["org.opencontainers.image.revision"]
    assert config.get("User", "") == ("" if name == "scanner" else "1000:1000")


@pytest.mark.parametrize(
    ("name", "packages"),
    [("sidecar", {"runc", "slirp4netns", "grpcio"}), ("step", {"python3", "tenacity"})],
)
def test_an_image_has_its_packages_listed(
    registry: Registry, name: str, packages: set[str]
) -> None:
    """By the scanner that is built here, attached by BuildKit."""
    _, attestations = _parts(registry, name)
    assert attestations is not None
    (layer,) = attestations["layers"]
    assert layer["annotations"]["in-toto.io/predicate-type"] == "https://spdx.dev/Document"
    statement = registry.json(f"buildsvc-{name}", f"blobs/{layer['digest']}")
    listed = {package["name"] for package in statement["predicate"]["packages"]}
    assert packages <= listed
    # The step has nothing of what the sidecar needs.
    assert ("grpcio" in listed) == (name == "sidecar")


def test_a_second_build_gives_the_same_image(registry: Registry) -> None:
    """Nothing of the moment is in it: the steps run again, all of them."""
    for tag, options in (("once", []), ("again", ["--no-cache"])):
        command = ["tools/as-builder", "python", "tools/images.py", "push", registry.host]
        # Scanned it would name the scanner, by a tag.
        command += [f"--tag={tag}", "--target=sidecar", "--no-sbom", *options]
        subprocess.run(command, cwd=REPOSITORY, check=True)
    once, again = (registry.digest("buildsvc-sidecar", tag) for tag in ("once", "again"))
    assert once == again
