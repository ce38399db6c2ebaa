"""containerd's filter language."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sidecar.agent.filters import FilterSyntaxError, parse_all

OBJECT = {
    ("name",): "layer one",
    ("parent",): "",
    ("kind",): "active",
    ("labels", "l"): "1",
    ("labels", "containerd.io/gc.root"): "x,y",
    ("labels", "uni"): 'é/|"',
}


def lookup(path: Sequence[str]) -> str | None:
    if path[0] == "labels":
        return OBJECT.get(("labels", ".".join(path[1:])))
    return OBJECT.get(tuple(path))


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "name",
        "parent",
        'name=="layer one"',
        'name == "layer one"',
        "kind==active",
        "kind!=view",
        "kind==active,labels.l==1",
        "kind==active, labels.l",
        'parent==""',
        'labels."containerd.io/gc.root"=="x,y"',
        'labels."containerd.io/gc.root"',
        "labels.nowhere!=1",
        "nowhere!=1",
        "name~=^layer",
        "name~=/one$/",
        "name~=|layer o.e|",
        r'name~="lay\x65r"',
        r'name=="lay\145r\u0020one"',
        r'name=="\U0000006cayer one"',
        "kind~=act",
        "nowhere~=^$",
        r'labels.uni=="é/|\""',
        r"labels.uni~=/é\//",
    ],
)
def test_what_matches(expression: str) -> None:
    assert parse_all([expression]).matches(lookup)


@pytest.mark.parametrize(
    "expression",
    [
        "nowhere",
        "labels.nowhere",
        "kind==view",
        "kind==active,labels.l==2",
        "nowhere==1",
        'nowhere==""',
        "name==layer",
        'parent!=""',
        "name~=^one",
        "name~=(",
    ],
)
def test_what_does_not(expression: str) -> None:
    assert not parse_all([expression]).matches(lookup)


@pytest.mark.parametrize(
    "expression",
    [
        "name==",
        "name=",
        "name===a",
        "name=~a",
        "==a",
        ",name",
        "name,",
        "name ",
        "name==a b",
        "name.",
        ".name",
        "name$",
        "name==.a",
        'name=="a',
        'name=="a\nb"',
        r'name=="\q"',
        r'name=="\x4"',
        r'name=="\ud800"',
        r'name=="\U00110000"',
        r'name=="\19"',
        "name==/a/",
        "name==|a|",
        "labels./l/",
        'name=="a"b',
    ],
)
def test_what_is_no_filter(expression: str) -> None:
    with pytest.raises(FilterSyntaxError, match="character"):
        parse_all(["name", expression])


def test_one_of_several_is_enough_and_none_matches_all() -> None:
    assert parse_all(["kind==view", "kind==active"]).matches(lookup)
    assert not parse_all(["kind==view", "name==x"]).matches(lookup)
    assert parse_all([]).matches(lookup)
