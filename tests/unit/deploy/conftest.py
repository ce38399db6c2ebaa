"""Values that the chart is tested with: every kind of cluster, with little and with everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.deploy.objects import (
    EVERYTHING,
    KINDS,
    Object,
    objects,
)

VALUES: Mapping[str, Mapping[str, Any]] = {
    "defaults": {"examples": {"enabled": True}},
    "without a cache": {"examples": {"enabled": True}, "store": {"existingSecret": ""}},
    "everything": EVERYTHING,
}


@pytest.fixture(params=KINDS)
def cluster(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    return KINDS[request.param]


@pytest.fixture(params=VALUES)
def found(request: pytest.FixtureRequest, cluster: Mapping[str, Any]) -> list[Object]:
    return objects({**VALUES[request.param], "cluster": cluster})
