"""The plain manifests are the chart, and nothing in deploy/ that is generated is out of date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import manifests
import pytest
import yaml

from tests.unit.deploy.objects import Object, parsed

KUSTOMIZE = manifests.DEPLOY / "kustomize"


def test_everything_is_up_to_date() -> None:
    wanted = {**manifests.chart_files(), **manifests.rendered_files()}
    differing = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    assert not differing, "run make manifests"


def test_nothing_is_left_of_what_is_made_no_more() -> None:
    made = {*manifests.rendered_files(), KUSTOMIZE / "base/namespace.yaml", manifests.VALUES}
    for directory in (KUSTOMIZE, manifests.DEPLOY / "sidecarset"):
        there = {path for path in directory.rglob("*") if path.is_file()}
        assert there - {directory / "README.md"} <= made


def built(directory: Path) -> list[Object]:
    """What kustomize builds of these files, without the digests in names."""
    (described,) = parsed((directory / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "resources", "configMapGenerator", "components"}
    assert described.keys() <= known
    found: list[Object] = []
    for name in [*described.get("resources", []), *described.get("components", [])]:
        path = (directory / name).resolve()
        found += built(path) if path.is_dir() else parsed(path.read_text())
    for made in described.get("configMapGenerator", []):
        metadata = {"name": made["name"], "namespace": made["namespace"]}
        data = {name: (directory / name).read_text() for name in made["files"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    return found


def compared(found: list[Object]) -> dict[tuple[str, str, str], Any]:
    """Objects by kind, namespace and name, without what only Helm or only kustomize says."""
    result = {}
    for one in found:
        metadata = one["metadata"]
        if one["kind"] == "Namespace" and metadata["name"] == manifests.NAMESPACE:
            # Helm makes it itself: --create-namespace.
            continue
        key = (one["kind"], metadata.get("namespace", ""), metadata["name"])
        assert key not in result
        if one["kind"] == "ConfigMap" and "pod.yaml" in one["data"]:
            result[key] = yaml.safe_load(one["data"]["pod.yaml"])
            continue
        text = yaml.safe_dump(one, sort_keys=True)
        result[key] = text.replace("app.kubernetes.io/managed-by: Helm\n", "").replace(" " * 4, "")
    return result


@pytest.mark.parametrize("kind", manifests.KINDS)
def test_kustomize_builds_what_helm_renders(kind: str, tmp_path: Path) -> None:
    everything = [f"kinds/{kind}", f"examples/{kind}"]
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": [str(KUSTOMIZE / name) for name in everything],
                "components": [
                    str(KUSTOMIZE / "components" / name) for name in ("gc", "monitoring")
                ],
            }
        )
    )
    made = manifests.render(f"--set=cluster.kind={kind}", values=manifests.VALUES)
    helms = [one for text in made.values() for one in parsed(text)]
    assert compared(built(tmp_path)) == compared(helms)


def test_a_directory_of_ones_own(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        "cluster: {kind: userns}\nwebhook: {enabled: false}\nexamples: {enabled: true}\n"
    )
    output = tmp_path / "mine"
    assert manifests.main(["--values", str(values), "--output", str(output)]) == 0
    kinds = {one["kind"] for one in built(output)}
    assert kinds == {"ConfigMap", "Job", "NetworkPolicy", "ServiceAccount"}


def test_values_that_cannot_be_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("cluster: {kind: privileged}\n")
    assert manifests.main(["--values", str(values), "--output", str(tmp_path / "mine")]) == 1
    assert "/cluster/kind" in capsys.readouterr().err


def test_a_difference_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = KUSTOMIZE / "base/webhook.yaml"
    monkeypatch.setattr(manifests, "chart_files", dict)
    monkeypatch.setattr(manifests, "rendered_files", lambda: {path: path.read_text() + "#\n"})
    assert manifests.main(["--check"]) == 1
    assert "deploy/kustomize/base/webhook.yaml" in capsys.readouterr().out
