"""What each identity does with the objects of a store, and so may have the right to do.

Names have ``*`` for anything. They tell keys apart, by their ids, but not tenants and trust
domains: an id is a hash. What is published in a domain is told by its signature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from buildsvc.errors import UsageError
from buildsvc.store.createonly import KEY as CREATE_ONLY
from buildsvc.store.policy import Rights

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from buildsvc.cache.keys import CacheKey

Role = Literal["read", "publish", "collect", "check"]

_READ = Rights(
    read=("keys/*/heads/*", "roots/*", "packs/*"),
    # Its lease on the generation that it has restored.
    write=("leases/*",),
    list=("keys/*",),
)
_KEYS_WRITTEN = ("keys/*/heads/*", "keys/*/key")

ROLES: dict[Role, Rights] = {
    "read": _READ,
    "publish": replace(
        _READ,
        read=(*_READ.read, "collections/log/*"),
        write=(*_READ.write, *_KEYS_WRITTEN, "roots/*", "packs/*", CREATE_ONLY),
        files=("packs/*",),
        list=(*_READ.list, "collections/log/*"),
    ),
    "collect": Rights(
        # Packs by those who verify, show and compare.
        read=("keys/*", "roots/*", "packs/*", "collections/*", "leases/*"),
        write=("keys/*/heads/*", "collections/*", CREATE_ONLY),
        delete=(
            "keys/*/heads/*",
            "roots/*",
            "packs/*",
            "leases/*",
            "collections/log/*",
            "collections/condemned/*",
        ),
        list=("keys/*", "roots/*", "packs/*", "collections/*", "leases/*"),
    ),
    "check": Rights(
        read=("check/*",),
        write=("check/*", CREATE_ONLY),
        files=("check/*",),
        delete=("check/*",),
        list=("check/*",),
    ),
}


@dataclass(frozen=True)
class Scope:
    """Which keys an identity publishes under: these only if there are any, and none of those."""

    only: Sequence[CacheKey] = ()
    never: Sequence[CacheKey] = ()


def rights_of(role: Role, scope: Scope) -> Rights:
    """The rights of a role, in a scope if it publishes.

    Raises:
        UsageError: another role has no scope.
    """
    rights = ROLES[role]
    if not scope.only and not scope.never:
        return rights
    if role != "publish":
        raise UsageError(
            "keys are for those who publish under them", expected="--role publish", found=role
        )
    if scope.only:
        own = _below(scope.only, ("heads/*", "key"))
        rights = replace(
            rights, write=(*own, *(name for name in rights.write if name not in _KEYS_WRITTEN))
        )
    return replace(rights, never_write=_below(scope.never, ("*",)))


def _below(keys: Iterable[CacheKey], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"keys/{key.id}/{name}" for key in keys for name in names)
