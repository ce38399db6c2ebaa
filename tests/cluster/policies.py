"""Enforces of network policies what the tests need: the networks that egress must not reach."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_TABLE = "inet buildsvc_policies"
_BRIDGE = "buildsvc0"


def forbidden(policies: Mapping[str, Any]) -> list[str]:
    """Return the IPv4 networks that the policies' egress rules leave out."""
    rules = [rule for one in policies["items"] for rule in one["spec"].get("egress", ())]
    blocks = [to["ipBlock"] for rule in rules for to in rule.get("to", ()) if "ipBlock" in to]
    return sorted({net for block in blocks for net in block.get("except", ()) if ":" not in net})


@contextmanager
def enforced(policies: Mapping[str, Any]) -> Iterator[None]:
    """Drop what pods send there: on its way through this machine, and to it."""
    networks = forbidden(policies)
    assert networks, f"no policy forbids anything: {policies}"
    rule = f'iifname "{_BRIDGE}" ip daddr {{ {", ".join(networks)} }} drop'
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -10; {rule}; }}\n"
        for hook in ("forward", "input")
    )
    _nft(f"table {_TABLE} {{\n{chains}}}\n")
    try:
        yield
    finally:
        _nft(f"delete table {_TABLE}\n")


def _nft(text: str) -> None:
    subprocess.run(["nft", "--file", "-"], input=text, text=True, check=True)
