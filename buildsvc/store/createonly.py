"""Whether a server really refuses to create where something is: found out before it counts.

A server that does not know the condition may overwrite without a word, and two publishers of one
head would both have won. So an object that nobody needs is created first, as often as it takes to
see that refused. Its key is no name of an object, and lists leave it out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from buildsvc.errors import ObjectExists, StoreRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEY = ".create-only"
"""Of the object, below the store's prefix. It is empty and stays for the next process."""


class CreateOnly:
    """Asked once for each process; ``create`` creates the object at ``KEY`` as a store would."""

    def __init__(self, create: Callable[[], Awaitable[None]], condition: str) -> None:
        self._create = create
        self._condition = condition
        self._asking = asyncio.Lock()
        self._kept = False
        self._refusal = ""

    async def check(self) -> None:
        """Return if the server refuses to create where something is.

        Raises:
            StoreRefused: it does not, or ``refuse`` was called.
            StoreError: as ``create`` raises; it is not known yet.
        """
        async with self._asking:
            if self._refusal:
                raise StoreRefused(self._refusal)
            if not self._kept:
                await self._ask()

    def refuse(self, error: StoreRefused) -> StoreRefused:
        """Return the error, which every later ``check`` raises as well."""
        self._refusal = str(error)
        return error

    async def _ask(self) -> None:
        # The first one may be the first in this store.
        for _ in range(2):
            try:
                await self._create()
            except ObjectExists:
                self._kept = True
                return
        raise self.refuse(
            StoreRefused(
                "the store overwrites what is to be created",
                expected=f"{self._condition} to be refused where there is an object",
                found="a success",
                advice="two builds could publish the same generation: use a server, or a version "
                "of it, that has conditional writes; see `buildsvc store check`",
            )
        )
