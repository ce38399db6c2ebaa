"""Keys: one text and one place each, whatever a branch is called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildsvc.cache.keys import LAST_NUMBER, MAX_NAME, CacheKey
from buildsvc.errors import ConfigError

NAMES = st.text(min_size=1, max_size=60).filter(str.isprintable)


def make(name: str = "app/main", **changes: str) -> CacheKey:
    values = {
        "tenant": "acme",
        "trust_domain": "protected",
        "platform": "linux-amd64",
        "compat": "buildkit-0.33",
        **changes,
    }
    return CacheKey(name=name, **values)


def test_text_and_names() -> None:
    key = make("app/feature/é x")
    assert key.text == "acme/protected/app%2Ffeature%2F%C3%A9%20x/linux-amd64/buildkit-0.33"
    assert len(key.id) == 32
    assert key.head_name(7) == f"keys/{key.id}/heads/00000000000000000007"
    assert make().id == "7c647fd485a28745bd34d50624a3a0eb"


@given(NAMES)
def test_a_key_is_known_by_its_text(name: str) -> None:
    key = make(name)
    assert CacheKey.from_text(key.text) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "acme/protected/app/linux-amd64",
        "acme/protected/app/main/linux-amd64/buildkit-0.33",
        "ACME/protected/app/linux-amd64/buildkit-0.33",
        "acme/protected/a%2fb/linux-amd64/buildkit-0.33",
        "acme/protected/%61pp/linux-amd64/buildkit-0.33",
        "acme/protected/%FF/linux-amd64/buildkit-0.33",
        "acme/protected//linux-amd64/buildkit-0.33",
    ],
)
def test_texts_of_no_key(text: str) -> None:
    with pytest.raises(ConfigError, match="cache key"):
        CacheKey.from_text(text)


def test_make() -> None:
    key = CacheKey.make(
        tenant="acme",
        trust_domain="forks",
        name=" cafe\u0301 ",
        platform="linux/arm64/v8",
        buildkit_version="v0.33.1",
    )
    assert key.text == "acme/forks/caf%C3%A9/linux-arm64-v8/buildkit-0.33"


@pytest.mark.parametrize(
    "version", ["", "v0", "0.33", "v0.33.1", "v1.2.3-rc1+dirty", "x.y", "v1.2 "]
)
def test_versions(version: str) -> None:
    def key() -> CacheKey:
        return CacheKey.make(
            tenant="t",
            trust_domain="d",
            name="n",
            platform="linux/amd64",
            buildkit_version=version,
        )

    if version in ("0.33", "v0.33.1", "v1.2.3-rc1+dirty"):
        assert key().compat in ("buildkit-0.33", "buildkit-1.2")
    else:
        with pytest.raises(ConfigError, match="no version of buildkitd"):
            key()


@given(NAMES, NAMES)
def test_different_names_have_different_texts_of_five_parts(one: str, other: str) -> None:
    keys = make(one), make(other)
    assert all(key.text.count("/") == 4 and key.text.isascii() for key in keys)
    assert (keys[0].text == keys[1].text) == (one == other)
    assert (keys[0].id == keys[1].id) == (one == other)


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "\ud800", "x" * (MAX_NAME + 1), "é" * 257])
def test_refused_names(name: str) -> None:
    with pytest.raises(ConfigError, match="is not printable text"):
        make(name)


@pytest.mark.parametrize("value", ["", "A", "a/b", "..", ".", "-a", "a-", "a b", "é", "x" * 64])
@pytest.mark.parametrize("field", ["tenant", "trust_domain", "compat"])
def test_refused_identifiers(field: str, value: str) -> None:
    with pytest.raises(ConfigError, match="is not a lower-case identifier"):
        make(**{field: value})


@pytest.mark.parametrize("platform", ["", "linux", "linux/amd64", "Linux-amd64", "a-b-c-d", "../x"])
def test_refused_platforms(platform: str) -> None:
    with pytest.raises(ConfigError, match="is not like linux-amd64"):
        make(platform=platform)


def test_all_that_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match=r"tenant.*trust domain.*platform.*name"):
        make("", tenant="A", trust_domain="B", platform="C")


def test_head_numbers() -> None:
    key = make()
    for number in (1, 12, LAST_NUMBER):
        assert key.head_number(key.head_name(number)) == number
    prefix = key.heads_prefix
    for name in (
        "",
        prefix,
        f"{prefix}1",
        f"{prefix}{'0' * 20}",
        f"{prefix}{'9' * 20}",
        f"{prefix}{'1' * 21}",
        f"{prefix}{chr(0x660) * 19}1",
        make("other").head_name(1),
    ):
        assert key.head_number(name) is None
    for number in (0, -1, LAST_NUMBER + 1):
        with pytest.raises(ValueError, match="numbered from 1"):
            key.head_name(number)
