"""The XML that OSS answers with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Node = str | Iterable[tuple[str, "Node"]]


@dataclass(eq=False)
class Refusal(Exception):
    """An error of OSS; ``details`` are further elements of the document."""

    status: int
    code: str
    message: str
    ec: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)

    def document(self, request_id: str, host: str) -> bytes:
        """D support/error-handling-1: the elements of an error."""
        fields = {
            "Code": self.code,
            "Message": self.message,
            "RequestId": request_id,
            "HostId": host,
            **self.details,
            "EC": self.ec,
        }
        return element("Error", [(name, value) for name, value in fields.items() if value])


def element(name: str, content: Node) -> bytes:
    """A document with this root."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_node(name, content)}'.encode()


def _node(name: str, content: Node) -> str:
    if isinstance(content, str):
        return f"<{name}>{escape(content)}</{name}>"
    return f"<{name}>{''.join(_node(inner, of) for inner, of in content)}</{name}>"
