"""Making sure of a push: late registries, wrong ones, and ones that refuse."""

from __future__ import annotations

import pytest

from buildsvc.imagebuild.errors import NotInRegistry, RegistryRefused, RegistryUnavailable
from buildsvc.imagebuild.names import ImageNames
from buildsvc.imagebuild.registry import Registry
from buildsvc.imagebuild.verifying import NoVerifier, RegistryVerifier
from tests.unit.imagebuild.fakes import FakeRegistry, unavailable

NAMES = ImageNames("r.example", "app", ("1", "latest"))
DIGEST = "sha256:" + "a" * 64
WHOLE = {f"app:{reference}": DIGEST for reference in (DIGEST, "1", "latest")}


async def verify(registry: FakeRegistry, limit: float = 60) -> list[str]:
    said: list[str] = []

    async def made() -> Registry:
        return registry

    await RegistryVerifier(made, limit=limit, say=said.append).verify(NAMES, DIGEST)
    return said


async def test_the_digest_and_each_tag_are_asked_for() -> None:
    registry = FakeRegistry(WHOLE)
    assert await verify(registry) == []
    assert registry.asked == [DIGEST, "1", "latest"]


async def test_a_registry_that_answers_late_is_asked_again() -> None:
    registry = FakeRegistry(WHOLE, failures=[unavailable(), unavailable()])
    assert await verify(registry) == [
        "asking the registry again: the registry gave no usable answer"
    ]
    assert registry.asked == [DIGEST] * 3 + ["1", "latest"]


async def test_a_tag_that_comes_late() -> None:
    class Late(FakeRegistry):
        async def digest(self, path: str, reference: str) -> str | None:
            found = await super().digest(path, reference)
            return None if self.asked.count("latest") == 1 else found

    assert await verify(Late(WHOLE)) == [
        "asking the registry again: r.example/app:latest is not what was pushed"
    ]


@pytest.mark.parametrize(
    ("digests", "said"),
    [
        ({}, f"r.example/app@{DIGEST} is not what was pushed"),
        ({**WHOLE, "app:1": "sha256:other"}, "another build may have pushed the same tag"),
        ({**WHOLE, "app:latest": ""}, "found: no such manifest"),
    ],
)
async def test_what_is_not_there(digests: dict[str, str], said: str) -> None:
    with pytest.raises(NotInRegistry, match=said) as error:
        await verify(FakeRegistry(digests), limit=0.05)
    assert error.value.exit_code == 76


async def test_a_registry_that_never_answers() -> None:
    with pytest.raises(RegistryUnavailable):
        await verify(FakeRegistry(WHOLE, failures=[unavailable() for _ in range(99)]), limit=0.05)


async def test_a_refusal_is_not_tried_again() -> None:
    registry = FakeRegistry(WHOLE, failures=[RegistryRefused("no")])
    with pytest.raises(RegistryRefused):
        await verify(registry)
    assert registry.asked == [DIGEST]


async def test_nothing_is_asked_where_nothing_is_to_be_verified() -> None:
    await NoVerifier().verify(NAMES, DIGEST)
