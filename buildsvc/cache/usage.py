"""How many bytes of a store each key, trust domain and tenant takes, and what nobody names.

A pack that several name counts for each of them, and as nobody's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildsvc.cache.keys import CacheKey
from buildsvc.cache.lookup import AT_A_TIME, all_keys
from buildsvc.cache.several import each
from buildsvc.cache.survey import Listed, Logs, Reader, listed_digests
from buildsvc.errors import CacheError

if TYPE_CHECKING:
    from buildsvc.store.contract import Store


@dataclass
class Use:
    """What a key, a trust domain or a tenant takes. Sizes in bytes."""

    name: str
    tenant: str
    generations: int = 0
    packs: int = 0
    bytes: int = 0
    own_packs: int = 0
    own_bytes: int = 0
    """Of packs that nobody else names."""
    problem: str = ""
    """Why a key's generations cannot be read; then they count as nothing."""


@dataclass
class Usage:
    """What there is in a store. Sizes in bytes."""

    keys: list[Use] = field(default_factory=list)
    domains: list[Use] = field(default_factory=list)
    tenants: list[Use] = field(default_factory=list)
    unknown_keys: int = 0
    """Keys that nothing readable names."""
    packs: int = 0
    roots: int = 0
    bytes: int = 0
    """Of packs and roots."""
    unreferenced_packs: int = 0
    unreferenced_roots: int = 0
    unreferenced_bytes: int = 0


async def usage(store: Store, logs: Logs, progress: Callable[[str, int, int], None]) -> Usage:
    """Reads all keys of the store. Raises StoreError.

    Takes some 500 bytes of memory for each pack of the store.
    """
    # Before the logs: what is published meanwhile is not taken for what nobody names.
    packs = {digest: stat.size async for digest, stat in listed_digests(store, "packs/")}
    roots = {digest: stat.size async for digest, stat in listed_digests(store, "roots/")}
    keys = await all_keys(store, progress)
    survey = _Survey(store, logs)

    async def read(pair: tuple[CacheKey | None, Listed]) -> None:
        progress("reading keys", survey.done, len(keys))
        await survey.read(pair[0])

    await each(keys, read, at_a_time=AT_A_TIME)
    unreferenced = [
        {digest: size for digest, size in listed.items() if digest not in named}
        for listed, named in ((packs, survey.sizes), (roots, survey.roots))
    ]
    return Usage(
        keys=survey.keys.finish(survey.sizes),
        domains=survey.domains.finish(survey.sizes),
        tenants=survey.tenants.finish(survey.sizes),
        unknown_keys=sum(key is None for key, _ in keys),
        packs=len(packs),
        roots=len(roots),
        bytes=sum(packs.values()) + sum(roots.values()),
        unreferenced_packs=len(unreferenced[0]),
        unreferenced_roots=len(unreferenced[1]),
        unreferenced_bytes=sum(sum(listed.values()) for listed in unreferenced),
    )


class _Survey:
    """Adds up what is read of each key."""

    def __init__(self, store: Store, logs: Logs) -> None:
        self._store = store
        self._logs = logs
        self.done = 0
        self.sizes: dict[bytes, int] = {}
        self.roots: set[bytes] = set()
        self.keys = _Groups()
        self.domains = _Groups()
        self.tenants = _Groups()

    async def read(self, key: CacheKey | None) -> None:
        self.done += 1
        if key is None:
            return
        packs: dict[bytes, int] = {}
        numbers: set[int] = set()
        problem = ""
        try:
            # One for each key: it remembers what each root names.
            async for generation, named in Reader(self._store).usable(self._logs(key)):
                packs.update(named)
                numbers.add(generation.origin)
                self.roots.add(generation.head.root)
        except CacheError as error:
            problem = str(error)
        self.sizes.update(packs)
        domain = f"{key.tenant}/{key.trust_domain}"
        self.keys.add(key.text, key.tenant, len(numbers), packs).problem = problem
        self.domains.add(domain, key.tenant, len(numbers), packs)
        self.tenants.add(key.tenant, key.tenant, len(numbers), packs)


class _Groups:
    """Uses by name, and of which of them each pack is."""

    def __init__(self) -> None:
        self._uses: list[Use] = []
        self._numbers: dict[str, int] = {}
        self._owners: dict[bytes, int] = {}
        self._several: dict[bytes, set[int]] = {}

    def add(self, name: str, tenant: str, generations: int, packs: Mapping[bytes, int]) -> Use:
        if name not in self._numbers:
            self._numbers[name] = len(self._uses)
            self._uses.append(Use(name, tenant))
        number = self._numbers[name]
        use = self._uses[number]
        use.generations += generations
        for digest, size in packs.items():
            if self._is_new(number, digest):
                use.packs += 1
                use.bytes += size
        return use

    def finish(self, sizes: Mapping[bytes, int]) -> list[Use]:
        """All uses, by name."""
        for digest, owner in self._owners.items():
            if digest not in self._several:
                self._uses[owner].own_packs += 1
                self._uses[owner].own_bytes += sizes[digest]
        return sorted(self._uses, key=lambda use: use.name)

    def _is_new(self, number: int, digest: bytes) -> bool:
        """Whether the pack was not known to be of this one; from now on it is."""
        owner = self._owners.get(digest)
        if owner is None:
            self._owners[digest] = number
            return True
        several = self._several.get(digest)
        if several is None:
            if owner == number:
                return False
            several = self._several[digest] = {owner}
        elif number in several:
            return False
        several.add(number)
        return True
