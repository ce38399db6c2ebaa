"""The kinds of settings that only the sidecar has; those of all are in :mod:`buildsvc.values`."""

from __future__ import annotations

from ipaddress import ip_network
from urllib.parse import urlsplit

from buildsvc.keyplaces import parse_key_place
from buildsvc.store.address import shown_address
from buildsvc.values import parse_name, parse_path, parse_text
from sidecar.endpoint import parse_address


def parse_store(value: object) -> str:
    """Return the address of a store; the empty one means none."""
    address = parse_text(value)
    try:
        urlsplit(address)
    except ValueError:
        # Not its text, which may have the password.
        raise ValueError(f"{shown_address(address)!r} is a malformed address") from None
    return address


def parse_listen(value: object) -> str:
    """Return HOST:PORT in its canonical form."""
    return str(parse_address(parse_text(value)))


def parse_http_listen(value: object) -> str:
    """Return HOST:PORT, or ``off``, which YAML 1.1 reads as a boolean."""
    if value is False or (isinstance(value, str) and value.strip().lower() in ("off", "false")):
        return "off"
    return parse_listen(value)


def parse_mount_pattern(value: object) -> str:
    """Return a pattern for ids and targets of cache mounts, without slashes at its end."""
    text = parse_name(value)
    return text.rstrip("/") or text


def parse_verify_key(value: object) -> str:
    """Return TENANT/DOMAIN=PATH, the path made absolute."""
    place = parse_key_place(parse_text(value))
    return f"{place.tenant}/{place.trust_domain}={parse_path(str(place.path))}"


def parse_network(value: object) -> str:
    """Return an IP network in its canonical form."""
    return str(ip_network(parse_text(value), strict=False))
