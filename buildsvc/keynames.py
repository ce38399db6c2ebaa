"""Names of cache keys from templates such as ``{repository}/{branch}``.

``{repository}``, ``{branch}``, ``{target_branch}`` and ``{default_branch}`` stand for what the CI
system tells (:mod:`buildsvc.ci`), ``{env:NAME}`` for a variable, ``{{`` and ``}}`` for braces.

Different values make different names: in a value everything but letters, digits and ``._-~`` is
percent-encoded, the ``/`` of branches excepted, and between two placeholders there is a character
that values do not have (``/`` is one, as long as one of them at most is a branch). How a value is
written does not depend on the rest of the template, so that a fallback can name another template's
branch. A name that is too long ends in ``*`` and a digest of the whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from buildsvc.ci import Fact, system_of
from buildsvc.templates import Place, parse_template, told_fact
from buildsvc.values import parse_name

#: Bytes of a name at most; buildsvc.cache.keys allows some more.
LONGEST = 480

_BRANCHES = ("branch", "target_branch", "default_branch")
_TOLD = ("repository", *_BRANCHES)
#: Branches that more builds have in common than a branch of its own, the next best first.
_SHARED = ("target_branch", "default_branch")
#: What values are made of: what separates two has something else.
_IN_VALUES = re.compile(r"[A-Za-z0-9._~%:-]*")
_IN_BRANCHES = re.compile(r"[A-Za-z0-9._~%:/-]*")


def parse_key_name(value: object) -> str:
    """Return a name or template as it is. Raises ValueError for what cannot become a name."""
    text = parse_name(value)
    if not text.isprintable():
        raise ValueError(f"{text!r} is no name; write printable characters")
    _places(text)
    return text


def variables_of(text: str) -> frozenset[str]:
    """Return the variables that a template names as ``{env:NAME}``. Raises ValueError as above."""
    places = [place.placeholder.partition(":") for place in _places(text)]
    return frozenset(name for kind, colon, name in places if colon and kind == "env")


def key_names(own: str, fallbacks: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """Return the names that the templates make, the own one first, each once.

    Without fallbacks, an own name that has ``{branch}`` in it falls back to that of the branch
    that a pull request is for, then to that of the default branch, where the CI system tells them.

    Raises:
        ConfigError: something that a template needs is not told.
    """
    system = system_of(variables)
    names = [_filled(own, variables)]
    if fallbacks:
        names += [_filled(text, variables) for text in fallbacks]
    elif "branch" in (place.placeholder for place in _places(own)):
        # It tells the branch, so it is there.
        assert system is not None
        told = [system.tells(which, variables) for which in _SHARED]
        names += [_filled(own, variables, branch=fact) for fact in told if fact]
    return list(dict.fromkeys(names))


def _places(text: str) -> list[Place]:
    places = parse_template(text, _TOLD)
    several = sum(place.placeholder in _BRANCHES for place in places) > 1
    for place in places[1:-1]:
        if (_IN_BRANCHES if several else _IN_VALUES).fullmatch(place.text):
            raise ValueError(
                f"{text!r}: expected a character such as {'@' if several else '/'} between two "
                f"placeholders, that tells their values apart, found {place.text!r}"
            )
    return places


def _filled(text: str, variables: Mapping[str, str], **instead: Fact) -> str:
    name = ""
    for place in _places(text):
        name += place.text
        if place.placeholder:
            fact = instead.get(place.placeholder) or _fact(text, place.placeholder, variables)
            name += f"{fact.kind}:" * bool(fact.kind)
            safe = "/" if place.placeholder in _BRANCHES else ""
            name += quote(fact.value, safe=safe, errors="surrogateescape")
    return _shortened(name)


def _fact(text: str, placeholder: str, variables: Mapping[str, str]) -> Fact:
    return told_fact(f"the key name {text!r}", placeholder, variables, "the sidecar's container")


def _shortened(name: str) -> str:
    data = name.encode()
    if len(data) <= LONGEST:
        return name
    whole = hashlib.sha256(data).hexdigest()[:32]
    return data[: LONGEST - len(whole) - 1].decode(errors="ignore") + f"*{whole}"
