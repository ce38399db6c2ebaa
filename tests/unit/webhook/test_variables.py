"""Values that go to another container mean there what they meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from buildsvc import ci
from buildsvc.webhook.errors import NotInjected
from buildsvc.webhook.variables import copied, literal
from tests.unit.webhook.samples import env


def container(*entries: dict[str, Any], **values: str) -> dict[str, Any]:
    return {"name": "build", "env": [*env(**values), *entries]}


def kubelet(value: str, known: dict[str, str]) -> str:
    """What the kubelet makes of a value: written after its documentation, not after our code."""
    made, at = "", 0
    while at < len(value):
        if value.startswith("$$", at):
            made, at = made + "$", at + 2
        elif value.startswith("$(", at) and ")" in value[at:]:
            end = value.index(")", at)
            name = value[at + 2 : end]
            made, at = made + known.get(name, value[at : end + 1]), end + 1
        else:
            made, at = made + value[at], at + 1
    return made


@pytest.mark.parametrize(
    "text",
    ["plain", "$(A)", "$$(A)", "$$$(A)", "a$", "$(", "$(A", "$A", "${A}", "$$", "x$(A)$(B)y"],
)
def test_a_value_means_the_same_in_the_other_container(text: str) -> None:
    here = {"A": "1", "B": "2$(A)"}
    source = container({"name": "CI_X", "value": text}, A="1", B="2$$(A)")
    [entry] = copied([source], ["CI_X"])
    there = {"A": "secret", "B": "secret"}
    assert kubelet(entry["value"], there) == kubelet(text, here)


def test_a_literal_is_not_replaced() -> None:
    assert kubelet(literal("$(A) $$ $"), {"A": "x"}) == "$(A) $$ $"


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "X", "value": "$(FROM_ENV_FROM)"},
        {"name": "X", "value": "$(SECRET)"},
        {"name": "X", "value": "$()"},
        {"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
    ],
)
def test_what_cannot_be_known_elsewhere(entry: dict[str, Any]) -> None:
    secret = {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    with pytest.raises(NotInjected, match="variable X of container build"):
        copied([container(secret, entry)], ["X"])


def test_all_come_from_the_first_container_that_has_any() -> None:
    first = {"name": "none", "env": env(CI_X="", OTHER="o")}
    second, third = container(CI_X="2"), container(CI_X="3", CI_Y="3")
    assert copied([first, second, third], ["CI_X", "CI_Y"]) == env(CI_X="2")
    assert copied([{"name": "no env"}, {"name": "null", "env": None}], ["CI_X"]) == []


def test_the_last_of_several_entries_counts() -> None:
    twice = container({"name": "CI_X", "value": "2"}, CI_X="1")
    assert copied([twice], ["CI_X"]) == env(CI_X="2")


def test_every_variable_that_is_read_is_known() -> None:
    text = Path(ci.__file__).read_text()
    read = set(re.findall(r'variables\.get\("(\w+)"', text))
    read |= set(re.findall(r'"([A-Z]+_[A-Z_]+)"', text))
    assert read
    assert read == ci.VARIABLES
