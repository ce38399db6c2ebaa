"""Values of the chart: what can be said, and what cannot."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

import manifests
import pytest
import yaml

from buildsvc import __version__
from tests.unit.deploy.objects import (
    EVERYTHING,
    chart,
)


def test_lint() -> None:
    command = [str(manifests.helm()), "lint", "--strict", str(manifests.CHART)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_the_version_is_the_programs() -> None:
    described = yaml.safe_load((manifests.CHART / "Chart.yaml").read_text())
    assert described["appVersion"] == described["version"] == __version__


WRONG: Mapping[str, Mapping[str, Any]] = {
    "an unknown value": {"sidecr": {"rootSize": "1Gi"}},
    "an unknown value in a section": {"store": {"accessKey": "x"}},
    "an unknown kind": {"cluster": {"kind": "privileged"}},
    "a text for a number": {"webhook": {"replicas": "2"}},
    "a long time out": {"webhook": {"timeoutSeconds": 30}},
    "every namespace": {"webhook": {"namespaceSelector": {"matchLabels": None}}},
    "a decimal size": {"sidecar": {"rootSize": "40G"}},
    "no room for a build": {"sidecar": {"rootSize": "40Gi", "maxUsedSpace": "40GiB"}},
    "a password in an address": {"store": {"url": "s3://user:password@builds/cache"}},
    "a sidecar's variable for the step": {"examples": {"imageBuildEnv": {"BUILDSVC_ROOT": "/"}}},
    "no certificate": {"registry": {"host": "r", "ca": "secret"}},
    "a certificate of no registry": {"registry": {"ca": EVERYTHING["registry"]["ca"]}},
    "verify keys that are not named": {"signing": {"verifyConfigMap": "keys"}},
    "two injections": {"sidecarSet": {"enabled": True}},
    "no plugin": {"cluster": {"kind": "tun", "tun": "devicePlugin"}},
    "a collection of nothing": {"gc": {"enabled": True}},
    "a digest of nothing": {"image": {"digests": {"webhook": "sha256:" + "a" * 64}}},
    "namespaces without names": {"builds": {"createNamespaces": True}},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_values_are_refused(wrong: str) -> None:
    with pytest.raises(manifests.HelmRefuses):
        chart(WRONG[wrong])


def test_schema_and_values_know_each_other() -> None:
    schema = json.loads((manifests.CHART / "values.schema.json").read_text())
    values = yaml.safe_load((manifests.CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == values.keys()
    for name, section in values.items():
        assert schema["properties"][name]["properties"].keys() == section.keys(), name
        assert schema["properties"][name]["additionalProperties"] is False
